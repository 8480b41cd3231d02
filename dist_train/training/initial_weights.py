"""The weights of step 0 from `model.weights` or `run.init`: rank 0 loads them and sends them to all ranks."""

import logging
from pathlib import Path

from torch import Tensor, nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.published import list_published, read_published, rename_published
from dist_train.checkpoint.weights import find_weights, load_pretrained, read_state_dict
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, ConfigError
from dist_train.models.head import find_head
from dist_train.own_code.load import call
from dist_train.own_code.reference import parse_reference
from dist_train.settings.schema import Config, Model, TorchvisionModel
from dist_train.system.escape import escape
from dist_train.system.read_file import may_exist

_log = logging.getLogger(__name__)


def load_initial_weights(config: Config, network: nn.Module) -> None:
    """Load what `run.init` or `model.weights` gives into a network; nothing if both are unset.

    Raises:
        UserError: they can't be read, or are of another network; or there is no layer as `model.head` names.
        OwnCodeError: the user's function fails.
    """
    given = config.run.init or config.model.weights
    head = None if config.model.head is None else find_head(network, config.model.head)
    if given is None:
        return
    key = "run.init" if config.run.init else "model.weights"
    try:
        state_dict = read_state_dict(given) if config.run.init else _find_weights(config.model, given)
        load_pretrained(network, state_dict, given, head)
    except CheckpointError as error:
        text = str(error)
        is_of_head = head is None and "of another network" in text and f" {find_head(network, None)}." in text
        hint = ". Where the classes are others, set model.head=new" if is_of_head else ""
        raise CheckpointError(f"{key}: {error}{hint}") from error
    _log.info("%s: the weights of step 0 are those of %s", key, escape(given))


def share_initial_weights(config: Config, network: nn.Module, world: World) -> None:
    """Give every rank the weights that rank 0 has loaded: no disk has to be shared."""
    if world.size == 1 or not (config.run.init or config.model.weights):
        return
    sent = world.broadcast_bytes(serialization.encode(network.state_dict()) if world.is_main else None)
    if not world.is_main:
        network.load_state_dict(serialization.decode(sent, "the weights of rank 0"))


def _find_weights(config: Model, given: str) -> dict[str, Tensor]:
    """Return the weights that `model.weights` names: of a library, of the user's function, or of a path."""
    if parse_reference(given):
        returned = call(given, "model.weights", {})
        if isinstance(returned, str | Path):
            return read_state_dict(returned)
        return find_weights(returned, given)
    names = list_published(config.name)
    is_name = bool(names) or not Path(given).suffix
    if is_name and given not in names and not may_exist(Path(given)):
        known = f"the weights of {config.name} are {', '.join(names)}" if names else f"{config.name} has none by name"
        raise ConfigError(f"model.weights is {escape(given)}: there is no such file, and {known}")
    found = read_published(config.name, given) if given in names else read_state_dict(given)
    return _adapt(found) if isinstance(config, TorchvisionModel) else found


def _adapt(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of torchvision for its networks as they are built here."""
    from dist_train.models.torchvision_models import SECOND_HEADS

    renamed = rename_published(state_dict)
    return {name: value for name, value in renamed.items() if not name.startswith(SECOND_HEADS)}
