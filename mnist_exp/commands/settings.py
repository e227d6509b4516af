"""What can be set: the type of each value, and how its text is read, with an example of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from mnist_exp.commands.arguments import (
    FilePath,
    IterationOrHash,
    NumberOrNone,
    On,
    RunIdOrBeginning,
    RunIdsOrBeginnings,
    SeedRanges,
    Share,
    Text,
    Title,
    WholeNumber,
    WholeNumbers,
)

Model = Annotated[int, WholeNumber(1, 9999, "5")]
Baseline = Annotated[int, WholeNumber(1, 9999, "4")]
BaselineOrNone = Annotated[int, NumberOrNone(WholeNumber(1, 9999, "6"))]
NewModel = Annotated[int, WholeNumber(1, 9999, "30")]
Source = Annotated[int | str, IterationOrHash("12")]
Models = Annotated[list[int], WholeNumbers(WholeNumber(1, 9999, '"3 6-8"'))]
PythonFile = Annotated[Path, FilePath("alice.py")]
ClassName = Annotated[str, Text("Net")]
Like = Annotated[int, WholeNumber(1, 9999, "6")]
Name = Annotated[str, Title("Alice")]
Page = Annotated[Path, FilePath("reports/class.html")]
Seed = Annotated[int, WholeNumber(0, 2**32 - 1, "3")]
Seeds = Annotated[list[int], SeedRanges("5")]
SeedCount = Annotated[int, WholeNumber(1, 10_000, "5")]
Rate = Annotated[float, Share("0.9")]
Overrides = Annotated[str, Text('"optimizer.lr=0.05 batch_size=32"')]
Grid = Annotated[str, Text('"optimizer.lr=0.05,0.1 batch_size=32"')]
Epochs = Annotated[int, WholeNumber(1, 10_000, "2")]
Trials = Annotated[int, WholeNumber(1, 10_000, "30")]
SearchSpace = Annotated[str, Text('"optimizer.lr=0.01..0.3:log batch_size=32,64"')]
Device = Annotated[str, Text("cuda")]
Engine = Annotated[str, Text("torch")]
Split = Annotated[Literal["test", "validation"], Text("validation")]  # data refuses other words
Fold = Annotated[str, Text("2")]  # as well
RunId = Annotated[str, RunIdOrBeginning()]
RunIds = Annotated[list[str], RunIdsOrBeginnings(RunIdOrBeginning('"3f2a 9c1d"'))]
RunCount = Annotated[int, WholeNumber(1, 1_000_000, "50")]
Count = Annotated[int, WholeNumber(1, 1024, "2")]
Scheduler = Annotated[str, Text("tcp://host:8786")]
Database = Annotated[str, Text("postgresql://user:password@host/mlflow")]
Artifacts = Annotated[str, Text("s3://bucket/path")]
Host = Annotated[str, Text("192.0.2.1")]
Port = Annotated[int, WholeNumber(1, 65535, "5001")]
Backup = Annotated[str, Text("backups/now.tar.gz")]
Switch = Annotated[bool, On()]
