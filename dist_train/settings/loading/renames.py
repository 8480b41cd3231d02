"""Other names of settings: those of earlier versions, and the words of other programs.

A file of settings or a command line that uses an old key or value is refused with the new one. What an earlier version
wrote itself, the `config.yaml` of a run and the settings in a checkpoint, is translated.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

RENAMED_KEYS = {
    "log.every": "log.every_steps",
    "log.weights_every": "log.weights_every_steps",
    "checkpoint.every": "checkpoint.every_steps",
    "train.label_smoothing": "loss.args.label_smoothing",
}


def _split_width(width: Any) -> dict[str, Any]:
    if type(width) is not int or width < 1:
        return {}
    return {"model.channels": (6 * width, 16 * width), "model.hidden": (120 * width, 84 * width)}


REPLACED_KEYS: dict[str, Callable[[Any], dict[str, Any]]] = {"model.width": _split_width}
"""Old keys that several keys replace: a function of the old value that returns theirs; {} if it was not allowed."""

_GLOBAL = "data.global_batch: the samples of one step, over all ranks together"
_RANKS = "no setting: dist-train train --nproc N, or torchrun, starts so many ranks"
_BACKEND = "distributed.backend: nccl trains on GPUs, gloo on the CPU"
FOREIGN_WORDS = {
    word: meaning
    for meaning, words in {
        "checkpoint.every_steps": "checkpoint_interval ckpt_interval save_every save_interval save_steps",
        "checkpoint.keep_best": "save_best save_best_only load_best_model_at_end",
        "checkpoint.keep_last": "save_top_k save_total_limit max_to_keep",
        "checkpoint.mode": "greater_is_better",
        "checkpoint.monitor": "metric_for_best_model",
        "data.augment.crop_padding": "random_crop",
        "data.augment.flip": "hflip horizontal_flip random_flip random_horizontal_flip",
        _GLOBAL: "batch_size bs train_batch_size per_device_train_batch_size",
        "data.limit_test, in samples": "limit_test_batches limit_val_batches max_eval_samples",
        "data.limit_train, in samples": "limit_train_batches max_train_samples",
        "data.name": "dataset_name",
        "data.resize": "image_size img_size input_size resolution crop_size",
        "data.root": "data_dir data_path data_root dataset_dir dataset_path root_dir",
        "data.validation": "val_fraction val_split validation_fraction validation_split",
        "data.workers": "dataloader_num_workers n_workers num_workers",
        _BACKEND: "accelerator cuda device no_cuda use_cuda use_gpu",
        _RANKS: "devices gpus n_gpu n_gpus ngpus nproc nproc_per_node num_gpus num_nodes num_processes world_size",
        "eval.batch_size": "eval_batch_size test_batch_size val_batch_size per_device_eval_batch_size",
        "eval.every_epochs": "check_val_every_n_epoch",
        "eval.every_steps": "eval_every eval_interval eval_steps val_check_interval",
        "log.every_steps": "log_every log_every_n_steps log_freq log_interval logging_steps print_freq",
        "log.progress": "enable_progress_bar progress_bar verbose",
        "log.tensorboard": "report_to use_tensorboard",
        "loss": "criterion loss_fn loss_function",
        "loss.args.label_smoothing": "label_smoothing label_smoothing_factor",
        "loss.args.weight": "class_weight class_weights",
        "model.weights: their name, such as DEFAULT, or a file": "pretrained pretrained_weights use_pretrained",
        "model.freeze": "freeze_backbone freeze_layers frozen frozen_layers",
        "run.init": "finetune_from init_checkpoint init_from load_from pretrained_checkpoint",
        "model.dropout": "drop_rate dropout_rate",
        "model.name": "arch architecture backbone model_name model_type",
        "model.num_classes": "n_classes nclasses num_labels",
        "optim.lr": "base_lr initial_lr learning_rate lr_max max_lr",
        "optim.name": "optim_name optimizer_name optimizer_type",
        "optim.schedule": "lr_schedule lr_scheduler lr_scheduler_type lr_policy scheduler",
        "optim.step_size": "lr_decay_epochs lr_step_size",
        "optim.gamma": "lr_decay lr_gamma",
        "optim.warmup_epochs": "lr_warmup_epochs num_warmup_steps warmup warmup_steps",
        "optim.weight_decay": "l2 l2_reg wd",
        "run.dir": "checkpoint_dir default_root_dir log_dir logdir out_dir outdir output_dir save_dir work_dir",
        "run.name": "exp_name experiment experiment_name run_name",
        "run.resume": "checkpoint_path ckpt_path resume_from resume_from_checkpoint",
        "run.seed": "manual_seed random_seed random_state",
        "run.time_limit_minutes": "max_time time_limit",
        "train.early_stopping": "early_stop",
        "train.early_stopping.patience": "early_stopping_patience",
        "train.ema_decay": "ema model_ema use_ema",
        "train.epochs": "epoch max_epochs n_epochs nepochs num_epochs num_train_epochs",
        "train.max_grad_norm": "clip_grad clip_grad_norm grad_clip gradient_clip_val gradient_clipping max_norm",
        "train.max_steps": "iterations max_iter max_iters num_steps num_train_steps total_steps train_iters",
        "train.micro_batch: the largest number of samples in one pass; data.global_batch stays": (
            "accum_iter accumulate_grad_batches grad_accum gradient_accumulation_steps micro_batch_size"
        ),
        "train.precision: fp32, tf32, bf16 or fp16": "amp bf16 fp16 half mixed_precision use_amp",
        "train.compile": "torch_compile",
    }.items()
    for word in words.split()
}
"""Names of settings in other programs, by their last word, with the setting here, and more about it."""
FOREIGN_SECTIONS = {
    "data": "dataloader dataset datasets",
    "eval": "evaluation evaluator",
    "log": "logger logging",
    "model": "net network",
    "optim": "optimiser optimizer",
    "train": "trainer training training_args training_arguments",
    "checkpoint": "checkpointing checkpoints ckpt",
    "distributed": "dist strategy",
}
"""Sections here, with their names in other programs."""


class OldValue(NamedTuple):
    """A value that a setting no longer takes."""

    key: str
    value: str
    replacement: str
    advice: str
    """Completes the message `KEY is VALUE; ...`."""


OLD_VALUES = (
    OldValue("data.loader", "resident", "in_memory", "this value is now called in_memory"),
    OldValue(
        "train.compile",
        "step",
        "model",
        "compiling the whole step, with several steps in one call, was removed: use model, which compiles the network",
    ),
)

ADDED_KEYS: dict[str, Any] = {
    "eval.batch_size": None,
    "callbacks": [],
    "checkpoint.mode": None,
    "checkpoint.monitor": None,
    "checkpoint.split": "auto",
    "data.accept_changes": False,
    "data.drop_last": False,
    "data.sampling": "uniform",
    "data.shuffle": True,
    "distributed.find_unused_parameters": "auto",
    "loss.name": None,
    "loss.output": None,
    "metrics": None,
    "optim.decay_fraction": 0.2,
    "optim.groups": [],
    "optim.power": 1.0,
    "optim.restart_factor": 1,
    "task": "classification",
    "train.compile_mode": "default",
}
"""Settings that earlier versions did not have, with the value that counts as unchanged."""


UNSET = (("train.label_smoothing", 0.0),)
"""Old keys with a value that means the same as leaving them out today."""


def translate_word(key: str) -> str | None:
    """Return what the last word of a key is called here, if it is one of other programs."""
    word = key.rpartition(".")[2].lower().replace("-", "_")
    sections = (f"the section {name}" for name, words in FOREIGN_SECTIONS.items() if word in words.split())
    return FOREIGN_WORDS.get(word) or next(sections, None)


def find_old_value(key: str, value: Any) -> OldValue | None:
    """The entry for a value that the setting `key` no longer takes, None if there is none."""
    return next((old for old in OLD_VALUES if (old.key, old.value) == (key, value)), None)


def translate_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Rename old keys and values, and add the settings that came later.

    Args:
        flat: dotted keys and values as `flatten` returns them, by this version or an earlier one.
    """
    translated: dict[str, Any] = dict(ADDED_KEYS)
    if flat.get("data.name") == "image_folder":
        translated["data.orientation"] = "exif"
    for key, value in flat.items():
        old = find_old_value(key, value)
        if key in REPLACED_KEYS:
            translated |= {new: list(parts) for new, parts in REPLACED_KEYS[key](value).items()}
        elif key == "data.augment" and isinstance(value, str):
            translated["data.augment.name"] = value
        elif (key, value) not in UNSET:
            translated[RENAMED_KEYS.get(key, key)] = old.replacement if old else value
    return translated
