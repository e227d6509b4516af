"""Iterations as hypothesis draws them: layers, what a network keeps, what it draws, and a recipe
around it, as the source of a file."""

from dataclasses import dataclass

from hypothesis import strategies as st
from written import network, written

from mnist_exp.notebook.entries import Entry

LAYERS = {
    "convolution": ("nn.Conv2d(8, 8, 3, padding=1)", "x = {0}(x)"),
    "groups": ("nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)", "x = {0}(x).relu()"),
    "no bias": ("nn.Conv2d(8, 8, 1, bias=False)", "x = {0}(x)"),
    "norm": ("nn.BatchNorm2d(8)", "x = {0}(x)"),
    "dropout": ("nn.Dropout(0.2)", "x = {0}(x)"),
    "dropout of channels": ("nn.Dropout2d(0.2)", "x = {0}(x)"),
    "used twice": ("nn.Conv2d(8, 8, 3, padding=1)", "x = {0}({0}(x).relu())"),
    "residual": ("nn.Conv2d(8, 8, 3, padding=1)", "x = x + {0}(x)"),
    "gate": ("nn.Conv2d(8, 8, 1)", "x = x * {0}(x).sigmoid()"),
    "joined": ("nn.Conv2d(16, 8, 1)", "x = {0}(torch.cat([x, x.relu()], 1))"),
    "lazy": ("nn.LazyConv2d(8, 1)", "x = {0}(x)"),
    "pool": ("nn.MaxPool2d(3, 1, 1)", "x = {0}(x)"),
    "drawn": ("nn.Conv2d(8, 8, 1 + 2 * int(torch.randint(2, ())), padding='same')", "x = {0}(x)"),
    "held in a list": ("[nn.Dropout(0.3)]; self.add_module('held{1}', {0}[0])", "x = {0}[0](x)"),
    "index": ("None; self.register_buffer('order{1}', torch.arange(8).flip(0))",
              "x = x[:, self.order{1}]"),
}  # fmt: skip
"""How a layer is made, and what the network does with it."""

CARRIED = {
    "counter": ("self.steps = 0", "self.steps += 1", "0.1 * self.steps"),
    "list": ("self.seen = []", "self.seen.append(len(self.seen))", "0.1 * len(self.seen)"),
    "tensor": ("self.mean = torch.zeros(())", "self.mean = 0.5 * self.mean + x.detach().mean()",
               "self.mean"),
    "buffer": ("self.register_buffer('count', torch.zeros(()), persistent=False)",
               "self.count += 1", "0.1 * self.count"),
    "generator": ("self.draws = torch.Generator()", "pass", "torch.rand((), generator=self.draws)"),
    "numpy generator": ("self.rng = np.random.default_rng(5)", "pass", "float(self.rng.random())"),
    "python generator": ("self.chance = random.Random(5)", "pass", "self.chance.random()"),
    "torch": ("pass", "pass", "torch.rand(())"),
    "numpy": ("pass", "pass", "float(np.random.rand())"),
    "python": ("pass", "pass", "random.random()"),
}  # fmt: skip
NOT_CARRIED = {
    "global": ("pass", "STEPS.append(1)", "0.1 * len(STEPS)"),
    "iterator": ("self.turns = itertools.count(1)", "pass", "0.1 * next(self.turns)"),
    "later": (
        "self.late = type('Late', (), {'n': 0})()",
        "self.late.n += 1",
        "max(0, self.late.n - 9)",
    ),
    "class": ("pass", "type(self).seen = getattr(type(self), 'seen', 0) + 1", "0.1 * self.seen"),
    "object": ("self.own = type('Own', (), {'n': 0})()", "self.own.n += 1", "0.1 * self.own.n"),
}
"""What a network keeps or draws in training: how it is made, what a step does with it, and the
number that it gives."""

FIELDS = {
    "averaging": [
        "None", "ExponentialAverage(decay=0.8)", "ExponentialAverage(decay=0.9, every=3)",
    ],
    "augment": ["None", "RandomRotation(degrees=9)"],
    "preprocess": ["None", "Deslant()"],
    "views": ["None", "Rotations(degrees=(-9, 0, 9))"],
    "schedule": [
        "None", "partial(LambdaLR, lr_lambda=lambda e: 0.7**e)", "partial(StepLR, step_size=1)",
    ],
    "batch_schedule": [
        "None", "partial(OneCycleLR, max_lr=0.1)", "partial(CosineAnnealingLR, T_max=9)",
    ],
    "optimizer": ["partial(SGD, lr=0.05, momentum=0.9)", "partial(Adam, lr=torch.tensor(0.01))",
                  "lambda p: SGD([{'params': [w], 'lr': 0.01 * w.dim()} for w in p], lr=1)"],
}  # fmt: skip


@dataclass(frozen=True)
class DrawnRecipe:
    """The names of what was drawn; `fields` is the source of the recipe's."""

    layers: list[str]
    kept: list[str]
    fields: dict[str, str]

    @property
    def is_carried(self) -> bool:
        """Whether a checkpoint can hold all that decides the numbers."""
        return not set(self.kept) & NOT_CARRIED.keys()

    @property
    def entry(self) -> Entry:
        made, forward = [], ["x = self.first(x)"]
        for number, name in enumerate(self.layers):
            layer, use = LAYERS[name]
            own = f"self.layer{number}"
            made.append(f"{own} = {layer.format(own, number)}")
            forward.append(use.format(own, number))
        for name in self.kept:
            make, step, gives = (CARRIED | NOT_CARRIED)[name]
            made.append(make)
            forward += ["if self.training:", f"    {step}", f"    x = x * (1 + {gives})"]
        forward.append("return self.last(self.norm(x).relu()).mean((2, 3))")
        source = network("\n".join(made) or "pass", "\n".join(forward))
        return written(f"STEPS = []\n\n\n{source}", **self.fields)


drawn_recipes = st.builds(
    DrawnRecipe,
    layers=st.lists(st.sampled_from(list(LAYERS)), max_size=5),
    kept=st.lists(st.sampled_from([*CARRIED, *NOT_CARRIED]), max_size=3, unique=True),
    fields=st.fixed_dictionaries({name: st.sampled_from(ways) for name, ways in FIELDS.items()}),
)
