"""Which of MLflow's variables of the environment count here.

MLflow reads some three hundred. Those that say how the store is reached are the user's (KEPT). Of
the others many change what is written, or where: which run, which experiment, whether it is cut
off. They come from a notebook, a job or a shell profile that was about something else, so they are
put aside before MLflow reads them, here and in the servers and workers that are started from here.

A name of another MLflow that stands nowhere below is put aside as well; a test compares these lists
with the installed version, so that somebody decides.
"""

import os
from fnmatch import fnmatchcase

from mnist_exp.common.errors import ExpectedError

SET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A network is kept with neither the lock files of the folder in which a command was given, nor
    # the names of the user's variables.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
"""What MLflow is told, whatever it was told before."""

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is away is noticed in seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""What MLflow is told where the user says nothing."""

KEPT = {
    "MLFLOW_DISABLE_TELEMETRY": "whether MLflow reports its use",
    "MLFLOW_TRACKING_URI": "the store",
    "MLFLOW_TRACKING_USERNAME": "login",
    "MLFLOW_TRACKING_PASSWORD": "login",
    "MLFLOW_TRACKING_TOKEN": "login",
    "MLFLOW_TRACKING_AUTH": "login",
    "MLFLOW_TRACKING_AWS_SIGV4": "login",
    "MLFLOW_TRACKING_*_CERT_PATH": "certificates",
    "MLFLOW_TRACKING_INSECURE_TLS": "certificates",
    "MLFLOW_AUTH_CONFIG_PATH": "make server: a login of one's own",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "make server: the first user's password",
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "make server: what a login refuses",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "make server: the key of its sessions",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "make server: by which names it is called",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "make server: which pages may call it",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "make server: the same, for all",
    "MLFLOW_SERVER_X_FRAME_OPTIONS": "make server: which pages may show it",
    "MLFLOW_HTTP_*": "how long and how often a server is asked",
    "_MLFLOW_HTTP_*": "their limits",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "whether a server may send on",
    "MLFLOW_MYSQL_SSL_*": "certificates of a database",
    "MLFLOW_SQLALCHEMYSTORE_POOL_*": "connections to a database",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "connections to a database",
    "MLFLOW_S3_*": "where a bucket is",
    "MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION": "how a bucket is asked",
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "how a bucket is asked",
    "MLFLOW_GCS_*": "how a bucket is asked",
    "MLFLOW_KERBEROS_*": "login to a file system",
    "MLFLOW_PYARROW_EXTRA_CONF": "how a file system is asked",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "how long an artifact may take",
    "MLFLOW_DOWNLOAD_CHUNK_TIMEOUT": "how long a part of one may take",
    "MLFLOW_ENABLE_*MULTIPART_*": "in which parts artifacts travel",
    "MLFLOW_MULTIPART_*": "in which parts artifacts travel",
    "MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS": "how long an address of one is good",
    "_MLFLOW_MPD_*": "how often a part is asked for",
}
"""Patterns of what stays as the user has it: it says how the store is reached, and changes nothing
of what is written."""

REFUSED = {
    "MLFLOW_WORKSPACE": "runs go to no workspace of a server, but where MLFLOW_TRACKING_URI says; "
    "unset it",
}
"""What a user will not want to be ignored: others might see, or miss, what is written."""

ASIDE = {
    "which run, experiment or network is written to": (
        "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT*", "*MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_RUN_CONTEXT",
        "*SERVERLESS_GPU_COMPUTE_ASSOCIATED_JOB_RUN_ID", "MLFLOW_ENABLE_SGC_RUN_RESUMPTION_*",
        "_MLFLOW_SGI_NAME", "MLFLOW_ENV_VAR",
    ),
    "where it is written": (
        "MLFLOW_TRACKING_DIR", "MLFLOW_REGISTRY_*", "MLFLOW_ALLOW_FILE_STORE",
        "MLFLOW_BACKEND_STORE_URI", "MLFLOW_READ_REPLICA_*", "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "MLFLOW_ARTIFACT*", "MLFLOW_SERVE_ARTIFACTS", "MLFLOW_*WORKSPACE*", "MLFLOW_*TMP*",
        "MLFLOW_HOME", "MLFLOW_ENV_ROOT", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
        "MLFLOW_ALLOW*_ARTIFACT_SCHEMES", "MLFLOW_DEFAULT_PREDICTION_DEVICE",
    ),
    "what is written, and when": (
        "*ASYNC_LOGGING*", "MLFLOW_TRUNCATE_LONG_VALUES", "*SYSTEM_METRICS*", "MLFLOW_GO_STORE_*",
        "MLFLOW_LOG_MODEL_*", "MLFLOW_LOCK_MODEL_*", "_MLFLOW_*LOGGED_MODEL*", "MLFLOW_*UV_*",
        "MLFLOW_INPUT_EXAMPLE_*", "MLFLOW_REQUIREMENTS_*", "MLFLOW_SKIP_PIP_*",
        "MLFLOW_DISABLE_SCHEMA_DETAILS", "MLFLOW_CREATE_MODEL_VERSION_*", "MLFLOW_*TESTING*",
        "_MLFLOW_TESTING*", "MLFLOW_SQLALCHEMYSTORE_*", "MLFLOW_RUN_SLOW_TESTS",
        "MLFLOW_IN_CAPTURE_MODULE_PROCESS", "MLFLOW_PYTHON_CLIENT",
    ),
    "what is printed": (
        "*LOGGING*", "MLFLOW_PRINT_*", "*TELEMETRY*", "MLFLOW_DISABLE_AGENT_HINT",
        "MLFLOW_DISABLE_ENV_*",
    ),
    "how a server is started, and what it does beside keeping the store": (
        "*MLFLOW_SERVER_*", "MLFLOW_AUTH_*", "_MLFLOW_AUTH_*", "MLFLOW_HOST", "MLFLOW_PORT",
        "MLFLOW_WORKERS", "*MLFLOW_STATIC_PREFIX", "MLFLOW_GUNICORN_*", "MLFLOW_UVICORN_*",
        "UVICORN_*", "GUNICORN_*", "MLFLOW_EXPOSE_PROMETHEUS", "MLFLOW_CRYPTO_*", "*JOB*",
        "*MLFLOW_HUEY_*", "MLFLOW_WEBHOOK_*", "MLFLOW_ICON_*", "MLFLOW_RBAC_*",
        "_MLFLOW_ORIGINAL_PARENT_PID", "MLFLOW_*ASSISTANT*", "MLFLOW_SANDBOX_*",
    ),
    "language models, and what watches them": (
        "*TRAC[EI]*", "*GENAI*", "*GATEWAY*", "*PROMPT*", "*JUDGE*", "*SCOR*", "*MCP*",
        "*OTEL*", "*OTLP*", "MLFLOW_OPENAI_*", "MLFLOW_HUGGINGFACE_*", "MLFLOW_MODEL_CATALOG_*",
        "MLFLOW_CONVERT_MESSAGES_*", "MLFLOW_DISABLE_HUGGINGFACE_*",
        "MLFLOW_USE_BATCH_SPAN_PROCESSOR", "_MLFLOW_EVALUATE_*",
    ),
    "other services": (
        "*DATABRICKS*", "*MLFLOWDBFS", "MLFLOW_DFS_*", "*DBFS*", "*UC_*", "MLFLOW_ENABLE_DB_SDK",
        "MLFLOW_SQL_WAREHOUSE_*", "MLFLOW_DEPLOY*", "MLFLOW_SAGEMAKER_*", "MLFLOW_CONDA_*",
        "MLFLOW_DOCKER_*", "MLFLOW_MODEL_ENV_*", "MLFLOW_WHEELED_*", "*SPARK*", "*SERVING*",
        "MLFLOW_MODELS_WORKERS", "MLFLOW_PYFUNC_*", "_MLFLOW_LIGHTNING_*",
    ),
}  # fmt: skip
"""Patterns of what is put aside, by what it is about. KEPT, SET and REFUSED win."""

BEGINNINGS = (
    "MLFLOW_", "_MLFLOW_", "UVICORN_", "GUNICORN_", "SERVERLESS_GPU_COMPUTE_", "DISABLE_MLFLOWDBFS",
)  # fmt: skip
"""How the variables of MLflow, and of what serves it, begin. No other is touched."""
HARMLESS = "what is printed", "language models, and what watches them", "other services"
"""What of ASIDE nobody needs to hear of."""

SERVING = "MNIST_EXP_SERVING"
"""Set for the server that `server.serve` starts: its variables are those of a process that has
settled them, and what it tells its own processes."""


def kind(name: str) -> str:
    """What becomes of a variable: "set", "refused", "kept", or what it would be about that is put
    aside; "" for one that no list has."""
    if not name.startswith(BEGINNINGS):
        return ""
    lists = {"set": SET, "refused": REFUSED, "kept": KEPT, **ASIDE}
    matching = (
        kind for kind, patterns in lists.items() if any(fnmatchcase(name, p) for p in patterns)
    )
    return next(matching, "")


def settle_variables() -> list[str]:
    """Put aside what does not count, and set what MLflow is told, before MLflow is imported;
    returns the names that were put aside and may surprise."""
    if SERVING in os.environ:
        return []
    kinds = {name: kind(name) for name in sorted(os.environ) if name.startswith(BEGINNINGS)}
    aside = [name for name in kinds if kinds[name] not in ("set", "refused", "kept")]
    surprising = [name for name in aside if os.environ.pop(name) and kinds[name] not in HARMLESS]
    os.environ.update(SET)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    return surprising


def refuse_variables() -> None:
    """Raise ExpectedError for a variable that must not be ignored, and cannot be obeyed or read."""
    from mlflow import environment_variables

    for name, reason in REFUSED.items():
        if os.environ.get(name):
            raise ExpectedError(f"{name} is set: {reason}")
    for name in sorted(os.environ):
        known = getattr(environment_variables, name, None)
        if kind(name) != "kept" or known is None:
            continue
        try:
            known.get()
        except ValueError:
            value = ascii(os.environ[name])[1:-1][:40]
            needed = "true or false" if known.type is bool else "a number"
            raise ExpectedError(f"{name}={value}: {needed} is needed") from None
