"""The section `optim`: optimizers, groups of parameters, and schedules of the learning rate."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer
from pydantic.fields import FieldInfo

from dist_train.settings.schema.section import (
    NO_ARGUMENTS,
    Arguments,
    ByName,
    FileName,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    Reference,
    Section,
    section_classes,
)

ScheduleName = Literal["constant", "step", "multistep", "cosine", "onecycle", "linear", "polynomial", "trapezoid"]
AnySchedule = ScheduleName | Reference
Epochs = Annotated[float, Field(gt=0, le=10**6)]


class Group(Section):
    """Settings of the parameters whose names match a pattern; what is not set is as for all others."""

    match: Annotated[tuple[FileName, ...], Field(min_length=1)]
    """Patterns of parameter names, as for files: `*` is any text, `?` one character. A parameter in two groups gets
    the settings of both; one that they set differently is refused."""
    schedule: AnySchedule | None = None
    """Schedule of the group, with the arguments in `optim`. Default: `optim.schedule`."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """Return the schedule and the arguments that the group sets."""
        settings = self.model_dump(exclude={"match", "optimizer", "args"})
        return {**settings, **(getattr(self, "args", None) or {})}


class Plateau(Section):
    """As `torch.optim.lr_scheduler.ReduceLROnPlateau`; its counts are computed from the evaluations so far."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The learning rate is multiplied by it at each reduction."""
    patience: Annotated[int, Field(ge=0, le=10**9)] = 10
    """Evaluations in a row without improvement that are tolerated; the next one reduces."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change that is an improvement."""
    cooldown: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Evaluations after a reduction that do not count."""
    min_lr: NonNegativeFloat = 0.0
    """No learning rate is reduced below it."""


class Optimizer(Section):
    """An optimizer with its arguments, which have their names in torch."""

    name: str
    """The optimizer, by its name in torch in lower case."""
    lr: NonNegativeFloat
    """Learning rate; the peak, if the schedule changes it. Default: the optimizer's default in torch; one of your own
    needs it."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for the optimizer's constructor in torch, `lr` included."""
        return self.model_dump(include=set(self.argument_fields()))

    @classmethod
    def argument_fields(cls) -> dict[str, FieldInfo]:
        """Return the settings that are arguments of the optimizer, by their names."""
        common = set(Optim.model_fields) - {"lr"}
        return {
            key: info
            for key, info in cls.model_fields.items()
            if key not in common and not section_classes(info.annotation)
        }


class Optim(Optimizer):
    """Optimizer and learning rate; an optimizer's own arguments have their names in torch."""

    name: str
    """The optimizer, by its name in torch in lower case. Default: `sgd`."""
    groups: tuple[Group, ...] = ()
    """Parameters with settings of their own: `[{match: ["*.bias", "*norm*"], weight_decay: 0.0}, {match: ["head.*"],
    lr: 0.1}]`. A group may set a `schedule` and every argument of the optimizer. `--print-groups` prints the result."""
    schedule: AnySchedule = "constant"
    """How the learning rate changes from step to step. `linear` and `polynomial`: down to `eta_min`. `trapezoid`:
    constant, and linearly down to `eta_min` in the last steps. A reference: your own `f(step, total_steps)`, which
    returns a factor on `lr`; `step` is the number of steps made before."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 0.0
    """Epochs during which the learning rate rises linearly to that of the schedule."""
    step_size: Epochs = 30.0
    """Schedule `step`: epochs between multiplications by `gamma`."""
    milestones: tuple[Epochs, ...] = ()
    """Schedule `multistep`: epochs at which the learning rate is multiplied by `gamma`."""
    gamma: PositiveFloat = 0.1
    """Schedules `step` and `multistep`: the factor."""
    eta_min: NonNegativeFloat = 0.0
    """Schedules `cosine`, `linear`, `polynomial` and `trapezoid`: the learning rate at the end. A group with another
    `lr` ends at the same fraction of that."""
    restart_epochs: Epochs | None = None
    """Schedule `cosine`: epochs after which it starts again at `lr`. Default: never."""
    restart_factor: Annotated[int, Field(ge=1, le=1000)] = 1
    """Schedule `cosine`: each cycle is this many times as long as the one before."""
    power: PositiveFloat = 1.0
    """Schedule `polynomial`: the exponent."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Schedule `trapezoid`: fraction of all steps during which the learning rate falls."""
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Schedule `onecycle`: fraction of all steps during which the learning rate rises."""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """Schedule `onecycle`: the first learning rate is `lr / div_factor`."""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """Schedule `onecycle`: the last learning rate is `lr / div_factor / final_div_factor`."""
    plateau: Plateau | None = None
    """Reduce the learning rate of every schedule when the evaluations during training no longer get better. Default:
    never."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Let a group of an optimizer set each of its arguments."""
        fields = {key: (_annotation_of(info) | None, None) for key, info in cls.group_fields().items()}
        group = create_model(f"{cls.__name__}Group", __base__=Group, **fields)  # type: ignore[call-overload]
        cls.model_fields["groups"].annotation = tuple[group, ...]

    @classmethod
    def group_fields(cls) -> dict[str, FieldInfo]:
        """Return what a group may set beside its schedule."""
        return cls.argument_fields()


def _annotation_of(field: FieldInfo) -> Any:
    """Return a field's annotation with its limits."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


Betas = tuple[Fraction, Fraction]


class SGDArguments(Section):
    lr: NonNegativeFloat = 1e-3
    momentum: NonNegativeFloat = 0.0
    dampening: float = 0.0
    weight_decay: NonNegativeFloat = 0.0
    nesterov: bool = False


class AdamArguments(Section):
    lr: NonNegativeFloat = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False


class AdamWArguments(Section):
    lr: NonNegativeFloat = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-2
    amsgrad: bool = False


class SGD(SGDArguments, Optim):
    name: Literal["sgd"]


class Adam(AdamArguments, Optim):
    name: Literal["adam"]


class AdamW(AdamWArguments, Optim):
    name: Literal["adamw"]


class RestSGD(SGDArguments, Optimizer):
    name: Literal["sgd"]


class RestAdam(AdamArguments, Optimizer):
    name: Literal["adam"]


class RestAdamW(AdamWArguments, Optimizer):
    name: Literal["adamw"]


AnyRest = Annotated[RestAdamW | RestAdam | RestSGD, ByName()]


class Muon(Optim):
    name: Literal["muon"]
    lr: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.1
    momentum: Fraction = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    eps: NonNegativeFloat = 1e-7
    ns_steps: Annotated[int, Field(ge=1, le=99)] = 5
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] | None = None
    rest: AnyRest = RestAdamW(name="adamw")
    """Optimizer of all parameters with fewer than two dimensions, and of groups with `optimizer: rest`; embeddings and
    the last layer should be one. Muon updates a filter as a matrix with a row for each output."""

    @classmethod
    def group_fields(cls) -> dict[str, FieldInfo]:
        rest = [section.argument_fields() for section in (RestAdam, RestSGD)]
        optimizer = FieldInfo(annotation=Literal["rest"])
        return {**rest[0], **rest[1], **cls.argument_fields(), "optimizer": optimizer}


class Adagrad(Optim):
    name: Literal["adagrad"]
    lr: NonNegativeFloat = 1e-2
    lr_decay: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.0
    initial_accumulator_value: NonNegativeFloat = 0.0
    eps: NonNegativeFloat = 1e-10


class Adafactor(Optim):
    name: Literal["adafactor"]
    lr: NonNegativeFloat = 1e-2
    beta2_decay: Annotated[float, Field(le=0)] = -0.8
    eps: tuple[NonNegativeFloat | None, NonNegativeFloat] = (None, 1e-3)
    d: Annotated[float, Field(ge=1)] = 1.0
    weight_decay: NonNegativeFloat = 0.0


class RMSprop(Optim):
    name: Literal["rmsprop"]
    lr: NonNegativeFloat = 1e-2
    alpha: NonNegativeFloat = 0.99
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    momentum: NonNegativeFloat = 0.0
    centered: bool = False


class Adadelta(Optim):
    name: Literal["adadelta"]
    lr: NonNegativeFloat = 1.0
    rho: Annotated[float, Field(ge=0, le=1)] = 0.9
    eps: NonNegativeFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.0


class Adamax(Optim):
    name: Literal["adamax"]
    lr: NonNegativeFloat = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


class NAdam(Optim):
    name: Literal["nadam"]
    lr: NonNegativeFloat = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    momentum_decay: NonNegativeFloat = 4e-3
    decoupled_weight_decay: bool = False


class RAdam(Optim):
    name: Literal["radam"]
    lr: NonNegativeFloat = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    decoupled_weight_decay: bool = False


class ASGD(Optim):
    name: Literal["asgd"]
    lr: NonNegativeFloat = 1e-2
    lambd: NonNegativeFloat = 1e-4
    alpha: NonNegativeFloat = 0.75
    t0: NonNegativeFloat = 1e6
    weight_decay: NonNegativeFloat = 0.0


class Rprop(Optim):
    name: Literal["rprop"]
    lr: NonNegativeFloat = 1e-2
    etas: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1)]] = (0.5, 1.2)
    step_sizes: tuple[PositiveFloat, PositiveFloat] = (1e-6, 50.0)


class OwnOptim(Optim):
    """An optimizer of your own: a class as those of torch, or a function that returns one."""

    name: Reference
    args: Arguments = NO_ARGUMENTS
    """Its arguments beside the parameters and `lr`. A group may set those that the optimizer keeps for each group, in
    `args` of its own."""

    def arguments(self) -> dict[str, Any]:
        return {"lr": self.lr, **self.args}


TorchOptim = SGD | Adam | AdamW | Adagrad | Adafactor | RMSprop | Adadelta | Adamax | NAdam | RAdam | ASGD | Rprop
AnyOptim = Annotated[TorchOptim | Muon | OwnOptim, ByName()]
UNSUPPORTED_NAMES = {
    "optim.name": {
        "lbfgs": "it evaluates the loss several times a step, by a closure, and a step here has one backward pass over "
        "the global batch; use adam, or sgd with a schedule",
        "sparseadam": "it takes sparse gradients only, and gradients are dense here; use adam",
    }
}
"""Names that users may expect, by their settings, with the reason why they are not supported."""
SCHEDULE_SETTINGS = {
    "step_size": ("step",),
    "milestones": ("multistep",),
    "gamma": ("step", "multistep"),
    "eta_min": ("cosine", "linear", "polynomial", "trapezoid"),
    "restart_epochs": ("cosine",),
    "restart_factor": ("cosine",),
    "power": ("polynomial",),
    "decay_fraction": ("trapezoid",),
    "pct_start": ("onecycle",),
    "div_factor": ("onecycle",),
    "final_div_factor": ("onecycle",),
}
