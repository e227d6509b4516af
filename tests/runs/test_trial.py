"""What a trial of a recipe refuses, and what it finds out."""

import pytest
from written import NUMBER, line, network, written

from mnist_exp.common.errors import ExpectedError
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import trial
from mnist_exp.runs.check import UNREGISTERED
from mnist_exp.runs.effects import check_effects
from mnist_exp.runs.plan import settle
from mnist_exp.runs.trial import NOT_AVERAGED, NOT_REPEATED, NOT_RESUMED, TOGETHER, UNSTEADY
from mnist_exp.training import loop

SINGLE = "return F.adaptive_avg_pool2d(super().forward(x)[..., None, None], 1).squeeze().softmax(1)"
HELD = "self.first = nn.Conv2d(1, 8, 3, stride=2)\nself.other = 2 * self.first.weight"
FORGOTTEN = "def forgotten(_):\n    pass\n\n\n"
BROKEN = "def broken(*_, **__):\n    raise ZeroDivisionError('by hand')\n\n\n"
PARTS = (
    "@dataclass(frozen=True)\nclass Broken:\n    def __call__(self, *_):\n"
    "        return broken()\n\n\n"
    "@dataclass(frozen=True)\nclass Nothing:\n    def __call__(self, images, generator):\n"
    "        pass\n\n\n"
    "@dataclass(frozen=True)\nclass NoViews:\n    def __call__(self, images):\n"
    "        return []\n\n\n"
    "@dataclass(frozen=True)\nclass OneView:\n    def __call__(self, images):\n"
    "        return [images[:1]]\n\n\n"
)


def refused(entry: Entry) -> str:
    with pytest.raises(ExpectedError) as refusal:
        settle(NUMBER, entry=entry)
    said = str(refusal.value)
    assert said.startswith("experiments/model_30.py, line ")
    assert "\n" not in said
    assert len(said) < 500
    return said


@pytest.mark.parametrize(
    ("source", "fields", "at", "says"),
    [
        (BROKEN, {"network": "broken"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN, {"optimizer": "broken"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN, {"schedule": "broken"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN, {"batch_schedule": "broken"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN + PARTS, {"augment": "Broken()"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN + PARTS, {"preprocess": "Broken()"}, "raise Zero", "ZeroDivisionError: by hand"),
        (BROKEN + PARTS, {"views": "Broken()"}, "raise Zero", "ZeroDivisionError: by hand"),
        (PARTS, {"views": "OneView()"}, "views=", "views makes float32 (1, 1, 28, 28)"),
        (network("self.last = nn.Conv2d(8, 12, 3)"), {}, "network=", "(2, 12), not (2, 10)"),
        (network(forward="import importlib\n"
                         "return importlib.import_module('tests.support.once').once(x)"), {},
         "import_module", "ImportError: tests/support/once.py is code that no run would keep"),
        (network(forward="return x * float(open('README.md').read())"), {},
         "README.md", "network: ImportError: README.md is data that no run would keep"),
        (network(forward="return x, x"), {}, "network=", "gives a tuple, no tensor"),
        (network(forward="return self.nope(x)"), {}, "self.nope", "no attribute 'nope'"),
        (network(forward=SINGLE), {}, ".squeeze()", "IndexError: Dimension out of range"),
        (network(forward="return super().forward(x.view(64, 1, 28, 28))"), {}, "(64,", "'[64, 1,"),
        (network(forward="return super().forward(x if x.sum() > 0 else -x)"), {}, "x.sum()",
         "torch.export cannot trace the network"),
        (network("self.run = lambda x: Base.forward(self, x)", "return self.run(x)"), {},
         "network=", "computes with layers of its original"),
        (network("self.drop = nn.Dropout(0.5)\nself.act = lambda x: self.drop(x.relu())",
                 "return super().forward(self.act(x))"), {},
         "network=", "computes with layers of its original"),
        (network("self.act = [partial(lambda me, x: F.dropout(x, 0.5, me().training),"
                 " lambda: self)]", "return super().forward(self.act[0](x))"), {},
         "network=", "computes with layers of its original"),
        (network(HELD), {}, "network=", "it cannot be copied"),
        (FORGOTTEN, {"schedule": "forgotten"}, "schedule=", "makes a NoneType, which has no step"),
        (FORGOTTEN, {"batch_schedule": "lambda o: [StepLR(o, 1)]"}, "batch_schedule=", "a list,"),
        (FORGOTTEN, {"optimizer": "forgotten"}, "optimizer=", "makes a NoneType, no optimizer"),
        (PARTS, {"augment": "Nothing()"}, "augment=", "of 2 images augment makes None"),
        (PARTS, {"views": "NoViews()"}, "views=", "views makes nothing of 2 images"),
        (network("self.requires_grad_(False)"), {}, "=", "does not require grad"),
        ("", {"optimizer": "partial(SGD, lr=-1)"}, "optimizer=", "ValueError: Invalid learning"),
        ("", {"schedule": "ReduceLROnPlateau"}, "schedule=", "would so choose on the test set"),
        ("", {"schedule": "lambda o: ReduceLROnPlateau(o, 'max')"}, "schedule=", "test set"),
        ("", {"batch_schedule": "ReduceLROnPlateau"}, "batch_schedule=", "'metrics'"),
        ("", {"batch_schedule": "partial(CosineAnnealingLR, Tmax=3)"}, "batch_schedule=",
         "CosineAnnealingLR got an unexpected keyword argument 'Tmax'; did you mean T_max? it tak"),
        ("", {"optimizer": "partial(SGD, learning_rate=1)"}, "optimizer=", "'learning_rate'; it t"),
        ("", {"batch_schedule": "partial(OneCycleLR, max_lr=0.1, total_steps=1000)"},
         "batch_schedule=", "Tried to step 1001 times. The specified number of total steps is"),
        ("", {"epochs": 15, "schedule": "partial(LambdaLR, lr_lambda=lambda e: (1, 0.1)[e])"},
         "lr_lambda", "schedule: IndexError: tuple index out of range"),
        ("", {"epochs": 3, "schedule": "partial(LambdaLR, lr_lambda=lambda e: (1 - e) ** 0.5)"},
         "schedule=", "the learning rate becomes (3.06"),
        ("", {"parameter_groups": "lambda: []"}, "parameter_groups=", "parameter_groups: TypeErr"),
        ("", {"parameter_groups": "[].pop"}, "parameter_groups=",
         "an integer (as in parameter_groups=lambda network: [{'params': ...}])"),
        ("", {"augment": "RandomRotation"}, "RECIPE", "augment must be an object, a function, or"),
        ("", {"augment": "RandomRotation(degrees='7')"}, "augment=", "TypeError"),
        ("", {"augment": "v2.MixUp()"}, "augment=",
         "augment: num_classes must be passed, as in v2.MixUp(num_classes=10)"),
        ("", {"augment": "[ToTensor(), v2.Pad(2)]"}, "augment=", "ToTensor is not needed"),
        ("", {"augment": "lambda images, labels: images"}, "augment=", "gives images and"),
        ("", {"augment": "lambda images, labels: (images, labels[:1])"}, "augment=", "int64 (1,)"),
        ("", {"augment": "lambda images: images.repeat(2, 1, 1, 1)"}, "augment=", "not 2 images"),
        ("", {"augment": "[Repeat(2), lambda x, labels: (x, labels[:2])]"}, "augment=",
         "of 2 labels augment makes int64 (2,), not int64 (4,) or float32 (4, 10)"),
        ("", {"augment": "lambda x, labels: (x.sum(), labels)"}, "augment=", "float32 (), not 2"),
        ("", {"augment": "Repeat(0)"}, "augment=", "makes float32 (0, 1, 28, 28), not 2 images"),
        ("", {"augment": "lambda images, nothing: images"}, "augment=", "'nothing'"),
        ("", {"preprocess": "v2.Normalize((0.1,), (0.3,))"}, "preprocess=", "Normalize is not"),
        ("", {"preprocess": "lambda images: images[:, 0]"}, "preprocess=", "float32 (2, 28, 28)"),
        ("", {"loss": "nn.CrossEntropyLoss"}, "RECIPE", "0.1), not the class CrossEntropyLoss"),
        ("", {"loss": "nn.CrossEntropyLoss(reduction='none')"}, "loss=",
         "the loss of a batch must be a tensor of one number, not float32 (2,)"),
        ("", {"loss": "nn.CrossEntropyLoss(label_smoothing=2)"}, "loss=",
         "label_smoothing must be between 0.0 and 1.0. Got: 2 (as in loss=nn.CrossEntropyLoss("),
        ("", {"loss": "lambda output: output.sum()"}, "loss=", "2 were given"),
        ("", {"loss": "lambda output, labels: 0.5"}, "loss=", "one number, not float"),
        ("", {"loss": "F.binary_cross_entropy"}, "loss=", "ValueError: Using a target"),
        ("", {"gradient_clip_norm": 0}, "RECIPE", "above 0, as in gradient_clip_norm=1.0, not 0"),
        ("", {"accumulate_batches": 0.5}, "RECIPE", "accumulate_batches must be a whole number"),
        ("", {"autocast": "torch.float16"}, "RECIPE", "must be left out, or autocast='bfloat16'"),
        ("", {"teacher": "'model 14'"}, "RECIPE", "in quotes, as in teacher=14, not 'model 14'"),
        ("", {"metrics": "{'accuracy': F.mse_loss}"}, "RECIPE", "as in metrics={'top_2': top_2}"),
        ("", {"metrics": "{'top_2': lambda o, l: o}"}, "metrics=", "a number, not float32 (100,"),
        ("", {"metrics": "{'top_2': lambda o: 1}"}, "metrics=", "2 were given"),
        ("", {"parameter_groups": "lambda n: 1"}, "optimizer=", "TypeError"),
        ("", {"optimizer": "SGD([torch.zeros(1, requires_grad=True)])"}, "RECIPE",
         "optimizer must be a class with its arguments, as in optimizer=partial(SGD, lr=0.01)"),
        ("", {"metrics": "{'a b': F.mse_loss}"}, "RECIPE", "by names (not accuracy), as in"),
        ("", {"loss": "lambda output, labels: output.detach().sum()"}, "loss=", "require grad"),
        ("", {"loss": "lambda output, labels: (output.argmax(1) == labels).sum()"}, "loss=",
         "the loss of a batch does not require grad, as behind detach, argmax or no_grad"),
        ("", {"loss": "nn.Bilinear(10, 10, 1)"}, "loss=", "weights of loss are not trained"),
        ("", {"preprocess": "nn.Conv2d(1, 1, 1)"}, "preprocess=", "weights of preprocess are not"),
        ("", {"augment": "lambda images, labels: (images, labels.float())"}, "augment=",
         "of 2 labels augment makes float32 (2,), not int64 (2,) or float32 (2, 10)"),
        ("", {"augment": "lambda images: v2.functional.to_pil_image(images[0])"}, "augment=",
         "of 2 images augment makes Image, not 2 images"),
        ("", {"augment": "'RandomRotation'"}, "RECIPE", "not 'RandomRotation'"),
        ("", {"gradient_clip_norm": True}, "RECIPE", "a number above 0"),
        ("", {"teacher": 6}, "teacher=", "a loss is needed that takes (output, labels, teacher"),
        ("", {"teacher": NUMBER}, "teacher=", "teacher=30 is the iteration itself"),
        ("", {"optimiser": "SGD"}, "RECIPE", "did you mean optimizer? a recipe has acc"),
        ("", {"network": "Base()"}, "RECIPE", "as in network=Network, not an object of class Base"),
        ("", {"epochs": 0}, "RECIPE", "at least 1, as in epochs=15, not 0"),
    ],
)  # fmt: skip
def test_what_would_fail_is_refused_with_its_line(
    source: str, fields: dict[str, str], at: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = written(source, **fields)
    said = refused(entry)
    assert says in said
    assert at == "=" or said.startswith(f"experiments/model_30.py, line {line(entry, at)}: ")
    assert capfd.readouterr().err == ""  # torch.export tells at length of what it raises


def test_a_full_memory_is_one_line_and_no_fault_of_a_line() -> None:
    greedy = network(forward="return super().forward(x + 0 * torch.empty(2**46).sum())")
    said = r"^the memory is full: .*; a smaller batch takes less$"
    with pytest.raises(ExpectedError, match=said):
        settle(NUMBER, entry=written(greedy))


@pytest.mark.parametrize(
    ("methods", "at", "says"),
    [
        ("    def training_step(self, batch):\n        pass\n", "def training_step",
         "My defines training_step, and no step, which alone is called in training: def step(s"),
        ("    def loss(self, output, labels):\n        pass\n", "def loss", "My defines loss, and"),
        ("    def step(self, network, images, labels):\n        pass\n", "def step",
         "step takes (self, network, images, labels, teacher_output): too many positional"),
        ("    def step(self, net, images, labels, t):\n        return images.view(3)\n",
         "images.view(3)", "step: RuntimeError: "),
    ],
)  # fmt: skip
def test_a_subclass_says_a_step_and_nothing_that_is_never_called(
    methods: str, at: str, says: str
) -> None:
    source = written(f"class My(Recipe):\n{methods}\n\n").source
    entry = entries.parse(source.replace("RECIPE = Recipe(", "RECIPE = My("), NUMBER)
    said = refused(entry)
    assert said.startswith(f"experiments/model_30.py, line {line(entry, at)}: {says}")


def test_a_mistake_of_the_package_is_not_told_as_one_of_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "Computing", lambda recipe: recipe)
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        settle(NUMBER, entry=written())


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (network("self.first = nn.LazyConv2d(8, 3)"), {}),
        (network(forward="with torch.autocast('cpu', dtype=torch.bfloat16):\n"
                         "    return super().forward(x)"), {}),
        ("", {"batch_schedule": "partial(CosineAnnealingLR, T_max=100)"}),
        ("", {"batch_schedule": "partial(OneCycleLR, max_lr=0.1)"}),
        ("", {"batch_schedule": "lambda o, total_steps: StepLR(o, total_steps // 2)"}),
        ("", {"schedule": "partial(OneCycleLR, max_lr=0.1)"}),
        ("", {"schedule": "partial(CosineAnnealingWarmRestarts, T_0=1)"}),
        ("", {"optimizer": "partial(torch.optim.LBFGS, lr=0.1, max_iter=3)"}),
        ("", {"loss": "nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.ones(10))"}),
        ("", {"loss": "F.multi_margin_loss"}),
        ("", {"augment": "v2.RandomErasing()"}),
        ("", {"augment": "v2.Compose([v2.RandomRotation(9), v2.CutMix(num_classes=10)])"}),
        ("", {"augment": "(RandomRotation(degrees=7), lambda x: x + torch.randn_like(x))"}),
        ("", {"augment": "v2.RandomChoice([v2.MixUp(num_classes=10), v2.CutMix(num_classes=10)])"}),
        ("", {"augment": "lambda images, generator: images + random.random() + np.random.rand()"}),
        ("", {"preprocess": "[v2.Resize(20), v2.Grayscale(1), Deslant()]"}),
        (network("self.first = nn.Conv2d(3, 8, 3, 2)"), {"preprocess": "v2.Grayscale(3)"}),
        ("", {"gradient_clip_norm": 0.5, "accumulate_batches": 3}),
        ("", {"autocast": "'bfloat16'"}),
        ("", {"metrics": "{'worst': lambda o, l: F.cross_entropy(o, l, reduction='none').max()}"}),
        ("", {"parameter_groups": "lambda n: [{'params': list(n.parameters()), 'lr': 0.01}]"}),
        ("", {"schedule": "lambda o: SequentialLR(o, [LinearLR(o), StepLR(o, 3)], [1])"}),
        ("", {"schedule": "partial(LambdaLR, lr_lambda=lambda e: 0.9**e)"}),
        ("", {"epochs": 1, "batch_schedule": "partial(OneCycleLR, max_lr=0.1)"}),
        ("", {"batch_schedule": "partial(OneCycleLR, max_lr=0.1, epochs=2, steps_per_epoch=938)"}),
        ("", {"network": "lambda: torch.compile(Base())"}),
        ("", {"averaging": "ExponentialAverage(decay=0.9)"}),
        (network("self.list = [nn.Dropout(0.5)]\nself.add_module('drop', self.list[0])",
                 "return super().forward(self.list[0](x))"), {}),
        (network("self.rows = nn.LSTM(28, 8, batch_first=True)\nself.full = nn.Linear(8, 10)",
                 "return self.full(self.rows(x[:, 0])[0][:, -1])"),
         {"averaging": "ExponentialAverage(decay=0.9)"}),
        (network("self.draws = torch.Generator()",
                 "return super().forward(x * torch.rand((), generator=self.draws)"
                 " if self.training else x)"), {}),
        (network("self.draws = np.random.default_rng(1)",
                 "return super().forward(x * float(self.draws.random()) if self.training else x)"),
         {}),
        (network("self.steps = 0",
                 "self.steps += self.training\n"
                 "return super().forward(F.dropout(x, min(0.1 * self.steps, 0.9), self.training))"),
         {}),
        (network("self.register_buffer('seen', torch.zeros(()), persistent=False)",
                 "self.seen += self.training\n"
                 "return super().forward(x * (1 + self.seen) if self.training else x)"), {}),
        (network("self.mean = np.zeros(3)\nself.scale = np.float64(1)",
                 "if self.training:\n    self.mean = self.mean + 0.1\n    self.mean[0] = 1\n"
                 "return super().forward(x * float(1 + self.mean.sum()))"),
         {"averaging": "ExponentialAverage(decay=0.9)"}),
        (network("self.bound = float('nan')\nself.few = torch.ones(3, dtype=torch.bfloat16)"), {}),
        (network("self.act = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(inplace=True))",
                 "return super().forward(self.act(x))"), {}),
        (network("self.full = nn.Linear(784, 10)", "return self.full((x > 0).float().flatten(1))"),
         {}),
        (network("self.few = torch.eye(10).to_sparse()"), {}),
        (network("self.mask = None",
                 "if self.mask is None:\n    self.mask = torch.ones_like(x[:1])\n"
                 "return super().forward(x * self.mask)"), {}),
        (network(forward="noise = np.random.rand() + random.random()\n"
                         "return super().forward(x * noise if self.training else x)"), {}),
    ],
)  # fmt: skip
def test_what_trains_as_it_says_has_no_findings(source: str, fields: dict[str, object]) -> None:
    findings = settle(NUMBER, entry=written(source, **fields)).findings
    assert (findings.not_exact, findings.resumable, findings.cautions) == ("", True, ())


SUPER = "return super().forward(x)"
STEP = "return super().forward(x * {count} if self.training else x)"


@pytest.mark.parametrize(
    "source",
    [
        "STEPS = 0\n\n\n"
        + network(forward="global STEPS\nSTEPS += 1\n" + STEP.format(count="STEPS")),
        network("self.count = itertools.count(1)", STEP.format(count="next(self.count)")),
        "COUNT = [0]\n\n\ndef count():\n    COUNT[0] += 1\n    return COUNT[0] > 500\n\n\n"
        + network(forward=STEP.format(count="(1 + count())")),
        network("self.turns = itertools.cycle([1] * 500 + [2])",
                STEP.format(count="next(self.turns)")),
        network(forward="self.scale()\n" + SUPER) + "    def scale(self, seen=[]):\n"
        "        seen.append(1)\n\n\n",
        "class Slots:\n    __slots__ = ('n',)\n\n\n"
        + network("self.own = Slots()\nself.own.n = 0", "self.own.n += 1\n" + SUPER),
        network("self.later = [itertools.count(1)]",
                "n = next(self.later[0])\n" + STEP.format(count="(1 if n < 500 else 2)")),
        "STEPS = {'n': 0}\n\n\n"
        + network(forward="n = STEPS['n'] = STEPS['n'] + 1\n"
                  + STEP.format(count="(1 if n < 500 else 2)")),
        network(forward="type(self).n = getattr(type(self), 'n', 0) + 1\n"
                + STEP.format(count="(1 if self.n < 500 else 2)")),
        network("self.own = type('Own', (), {'steps': 0})()",
                "self.own.steps += 1\n" + STEP.format(count="self.own.steps")),
    ],
)  # fmt: skip
def test_what_no_checkpoint_carries_is_found_out(source: str) -> None:
    findings = settle(NUMBER, entry=written(source)).findings
    assert findings.not_exact == NOT_RESUMED
    assert findings.resumable
    assert findings.cautions == ()


def test_what_cannot_be_resumed_at_all_says_so() -> None:
    widths = network("width = int(np.random.default_rng().integers(1, 10**5))\n"
                     "self.unused = nn.Linear(1, width)")  # fmt: skip
    findings = settle(NUMBER, entry=written(widths)).findings
    assert not findings.resumable
    assert "size mismatch for unused.weight" in findings.not_exact
    assert findings.cautions == (NOT_REPEATED,)


@pytest.mark.parametrize(
    ("source", "caution"),
    [
        (network(forward="return super().forward(F.dropout(x, 0.3))"), UNSTEADY),
        (network(forward="return super().forward(x - x.mean(0))"), TOGETHER),
        (network("self.norm = nn.BatchNorm2d(8, track_running_stats=False)"), TOGETHER),
        ("LAYER = nn.Linear(784, 784)\n\n\n"
         + network(forward="return super().forward(LAYER(x.flatten(1)).view(x.shape))"),
         UNREGISTERED),
        (network("self.weights = [nn.Parameter(torch.ones(1))]"), UNREGISTERED),
        ("WEIGHT = torch.ones(1, requires_grad=True)\n\n\n"
         + network(forward="return super().forward(x * WEIGHT)"), UNREGISTERED),
        ("class Held:\n    def __init__(self, layer):\n        self.layer = layer\n\n\n"
         + network("self.held = Held(nn.Conv2d(1, 1, 1))",
                   "return super().forward(self.held.layer(x) if self.training else x)"),
         UNREGISTERED),
        (network("layer = nn.Conv2d(1, 1, 1)\nself.scale = lambda x: layer(x)",
                 "return super().forward(self.scale(x))"), UNREGISTERED),
        (network("self.scale = partial(nn.Conv2d(1, 1, 1))",
                 "return super().forward(self.scale(x))"), UNREGISTERED),
        (network("self.scale = nn.Conv2d(1, 1, 1).forward",
                 "return super().forward(self.scale(x))"), UNREGISTERED),
        (network("pass", "return super().forward(self.scale(x))")
         + "    scale = nn.Conv2d(1, 1, 1)\n\n\n", UNREGISTERED),
        (network("self.layers = {'a': [[nn.Conv2d(1, 1, 1)]]}"), UNREGISTERED),
        (network("self.layers = [nn.Conv2d(1, 1, 1)]",
                 "return super().forward(self.layers[0](x))"), UNREGISTERED),
        (network("self.full = nn.Linear(784, 10)", "return self.full(x.view(len(x), -1))"),
         trial.FIXED),
        (network(forward="scale = np.random.default_rng().random() if self.training else 1\n"
                         "return super().forward(x * scale)"), NOT_REPEATED),
        ("DRAWS = random.SystemRandom()\n\n\n"
         + network(forward="scale = DRAWS.random() if self.training else 1\n"
                           "return super().forward(x * scale)"), NOT_REPEATED),
    ],
)  # fmt: skip
def test_what_makes_numbers_less_certain_is_said(source: str, caution: str) -> None:
    assert settle(NUMBER, entry=written(source)).findings.cautions == (caution,)


LOGARITHMS = network(forward="return super().forward(x).log_softmax(1)")
PROBABILITIES = network(forward="return super().forward(x).softmax(1)")


@pytest.mark.parametrize(
    ("source", "loss", "cautions"),
    [
        ("", "nn.NLLLoss()", (trial.NO_LOGARITHMS,)),
        (PROBABILITIES, "F.nll_loss", (trial.NO_LOGARITHMS,)),
        (
            "",
            "lambda o, l: F.kl_div(o, F.one_hot(l, 10).float(), reduction='sum')",
            (trial.NO_LOGARITHMS,),
        ),
        (LOGARITHMS, "nn.NLLLoss()", ()),
        (LOGARITHMS, "None", ()),
        (PROBABILITIES, "None", (trial.TWICE,)),
        (PROBABILITIES, "lambda o, l: F.mse_loss(o, F.one_hot(l, 10).float())", ()),
        ("", "nn.MultiMarginLoss()", ()),
    ],
)
def test_a_loss_of_other_outputs_is_said(source: str, loss: str, cautions: tuple[str, ...]) -> None:
    assert settle(NUMBER, entry=written(source, loss=loss)).findings.cautions == cautions


@pytest.mark.parametrize("field", ["augment", "preprocess"])
def test_images_that_become_black_are_said(field: str) -> None:
    for made, cautions in (("images / 255", (trial.FAINT,)), ("255 - images", ())):
        entry = written(**{field: f"lambda images: {made}"})
        assert settle(NUMBER, entry=entry).findings.cautions == cautions


def test_an_override_that_something_else_undoes_is_refused() -> None:
    one_cycle = "partial(OneCycleLR, max_lr=0.1)"
    grouped = "lambda n: [{'params': list(n.parameters()), 'lr': 0.01}]"
    for fields, name, why in (
        (
            {"batch_schedule": "partial(CyclicLR, base_lr=0.01, max_lr=0.1)"},
            "lr",
            "CyclicLR sets lr anew, and batch_schedule.max_lr=",
        ),
        (
            {"schedule": one_cycle},
            "momentum",
            "sets momentum anew, and schedule.max_momentum= sets",
        ),
        ({"parameter_groups": grouped}, "lr", "a parameter group or a schedule sets it anew"),
    ):
        overrides = {f"optimizer.{name}": 0.5, "optimizer.weight_decay": 0.5}
        with pytest.raises(
            ExpectedError, match=rf"^optimizer\.{name}=0.5 changes nothing: "
        ) as said:
            settle(NUMBER, entry=written(**fields), overrides=overrides)
        assert why in str(said.value)
    both = {"optimizer.lr": 0.5, "batch_schedule.max_lr": 0.2}
    with pytest.raises(ExpectedError, match=r"and batch_schedule\.max_lr= sets that"):
        settle(NUMBER, entry=written(batch_schedule=one_cycle), overrides=both)
    check_effects(written(), 1, {"optimizer.lr": 0.05})  # which its file has anyway
    warm = "partial(LambdaLR, lr_lambda=lambda step: min(1, step / 9))"  # from a rate of 0
    rates = {"optimizer.lr": 0.5, "optimizer.weight_decay": 0.5}
    assert settle(NUMBER, entry=written(batch_schedule=warm), overrides=rates).overrides == rates


def test_an_average_without_what_its_network_changes_is_said() -> None:
    source = network("self.own = type('Own', (), {'n': 0})()", "self.own.n += self.training\n"
                     "return super().forward(x * (1 + self.own.n))")  # fmt: skip
    entry = written(source, averaging="ExponentialAverage(decay=0.9)")
    assert settle(NUMBER, entry=entry).findings.cautions == (NOT_AVERAGED,)


@pytest.mark.parametrize(
    "made", ["np.random.Generator(np.random.MT19937(0))", "None", "np.random.RandomState(0)"]
)
def test_what_no_checkpoint_can_hold_trains_all_the_same(made: str) -> None:
    draws = "if self.rng is None:\n    self.rng = torch.Generator()\nself.turns = self.rng"
    findings = settle(
        NUMBER, entry=written(network(f"self.rng = {made}", draws + "\n" + SUPER))
    ).findings
    assert findings.not_exact or findings.resumable


def test_a_loss_that_is_not_finite_is_left_to_the_run() -> None:
    findings = settle(NUMBER, entry=written(optimizer="partial(SGD, lr=1e30)")).findings
    assert (findings.not_exact, findings.cautions) == ("", ())


def test_the_seed_decides_what_the_file_of_an_iteration_draws() -> None:
    drawn = "1 + int(torch.randint(10**6, ())) + np.random.randint(10**6) + random.randrange(10**6)"
    entry = written(batch_size=drawn)
    one, again, other = (trial.recipe_from(entry, seed).batch_size for seed in (1, 1, 2))
    assert one == again != other
