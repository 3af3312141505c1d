"""What was meant by a name that nothing knows: the field's own words first, then the nearest one in spelling.

A far match misleads (lora is not logger), so where nothing is near, nothing is said.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

# Our key: what transformers, TRL, Lightning, Axolotl, LitGPT, torchtune, llama.cpp and people call it. Where several of
# our keys are given, the first that there is.
WORDS: dict[str, str] = {
    "optim.lr": "lr learning_rate learningrate max_lr peak_lr base_lr initial_lr",
    "optim.weight_decay": "weight_decay wd l2",
    "optim.eps": "eps epsilon adam_epsilon adam_eps",
    "optim.beta1": "beta1 adam_beta1 betas",
    "optim.beta2": "beta2 adam_beta2",
    "optim.clip": "clip gradient_clip_val gradient_clip grad_clip gradient_clipping max_grad_norm clip_grad_norm "
    "clip_grad clip_norm max_norm",
    "optim.schedule": "schedule scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay_style",
    "optim.warmup_steps": "num_warmup_steps lr_warmup_steps warmup_iters warmup_steps",
    "optim.warmup": "warmup warmup_ratio warmup_fraction warmup_epochs",
    "optim.min_lr": "min_lr eta_min lr_min min_learning_rate min_lr_ratio",
    "adapter.rank": "rank lora_r lora_rank",
    "adapter.alpha": "alpha lora_alpha",
    "adapter.dropout": "lora_dropout",
    "adapter.targets": "target_modules lora_target_modules lora_target lora_modules",
    "adapter.layers": "layers_to_transform lora_layers",
    "adapter": "lora dora qlora peft use_lora use_peft adapters peft_method finetuning_type",
    "optim": "optimizer optimiser optimizer_name optimizer_type",
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs nb_epochs num_train_epochs train_epochs max_epoch",
    "trainer.max_steps": "steps num_steps train_steps max_iters max_iter iterations total_steps num_training_steps",
    "trainer.accumulate": "accumulate_grad_batches gradient_accumulation_steps gradient_accumulation grad_accum "
    "grad_accumulation accumulation_steps accumulate_gradients",
    "trainer.precision": "precision dtype torch_dtype mixed_precision amp fp16 bf16 fp32 half",
    "trainer.devices": "devices gpus gpu num_gpus n_gpus num_devices n_devices ngpu nproc nproc_per_node world_size",
    "trainer.nodes": "num_nodes nnodes nodes n_nodes",
    "trainer.accelerator": "accelerator device",
    "trainer.strategy": "strategy",
    "model.compile": "compile torch_compile",
    "optim.label_smoothing": "label_smoothing label_smoothing_factor",
    "optim.layer_decay": "layer_decay llrd layer_lr_decay layerwise_lr_decay",
    "optim.neftune_alpha": "neftune neftune_alpha neftune_noise_alpha",
    "trainer.save_top_k": "save_top_k save_total_limit keep_last_n",
    "trainer.limit_train_batches": "limit_train_batches max_train_batches",
    "trainer.early_stopping.patience": "patience early_stopping early_stopping_patience early_stop earlystopping",
    "trainer.val_every": "val_every eval_steps eval_every eval_interval val_check_interval check_val_every_n_epoch "
    "evaluation_strategy eval_strategy",
    "trainer.save_every": "save_every save_steps save_interval checkpoint_every every_n_train_steps save_strategy",
    "model.activation_checkpointing": "gradient_checkpointing activation_checkpointing grad_checkpointing",
    "model.freeze": "freeze frozen freeze_layers unfreeze unfrozen_parameters",
    "data.batch_size": "batch_size bs batchsize batch micro_batch_size train_batch_size per_device_train_batch_size "
    "per_device_batch_size global_batch_size",
    "data.max_length": "max_seq_length max_seq_len max_len max_length maxlen cutoff_len block_size seq_len seq_length "
    "sequence_len sequence_length max_sequence_length model_max_length max_tokens_per_row",
    "data.path": "path dataset data_path dataset_name dataset_path data_file data_files train_file train_path "
    "train_data training_file input_file",
    "data.val_path": "val_path val_file validation_file eval_file valid_file validation_path val_data",
    "data.test_path": "test_path test_file test_data",
    "data.fractions.val": "val_size val_fraction val_split val_set_size validation_split val_split_fraction val_ratio",
    "data.fractions.test": "test_size test_fraction test_split test_ratio",
    "data.split_seed": "split_seed data_seed",
    "data.num_workers": "num_workers workers dataloader_num_workers n_workers",
    "data.hub": "hub dataset_id hub_dataset",
    "prompt.mask": "mask mask_prompt train_on_inputs train_on_input completion_only_loss mask_inputs "
    "response_only_loss assistant_only_loss",
    "prompt": "template prompt_template prompt_style chat_format conversation_template",
    "prompt.chat_template": "chat_template jinja_template",
    "model.pretrained": "pretrained model_name_or_path model_name pretrained_model_name_or_path base_model "
    "pretrained_model checkpoint_dir init_from model_id model_path",
    "model.tokenizer": "tokenizer tokenizer_name tokenizer_path tokenizer_name_or_path",
    "model.dropout": "dropout resid_pdrop",
    "model.n_layer": "n_layer n_layers num_layers num_hidden_layers layers",
    "model.n_head": "n_head n_heads num_heads num_attention_heads heads",
    "model.n_embd": "n_embd d_model hidden_size hidden_dim emb_dim n_embed embedding_size",
    "model.context_length": "context_length n_ctx n_positions context context_size max_position_embeddings",
    "model.tie_weights": "tie_weights tie_word_embeddings weight_tying",
    "generate.max_new_tokens": "max_new_tokens max_tokens num_tokens",
    "generate.temperature": "temperature temp",
    "generate.top_k": "top_k topk",
    "generate.top_p": "top_p topp nucleus",
    "output_dir": "out_dir outdir out output output_path save_dir logdir log_dir run_dir default_root_dir",
    "resume": "resume_from resume_from_checkpoint ckpt_path ckpt load_checkpoint",
    "seed": "random_seed manual_seed rng_seed pl_seed seed_everything",
    "logger": "report_to log_with loggers",
    "logger.project": "project wandb_project project_name",
    "logger.entity": "entity wandb_entity",
    "logger.run_name": "run_name wandb_name wandb_run_name experiment_name",
    "logger.tags": "tags wandb_tags",
    # of evaluate.py
    "eval": "task evaluation",
    "eval.tasks": "tasks",
    "eval.limit": "limit max_samples num_samples",
    "eval.num_fewshot": "num_fewshot fewshot few_shot n_shot shots",
    "run": "run_folder model_dir",
    "judge.model": "judge_model",
    "judge.base_url": "base_url api_base openai_api_base",
}
OURS = {word: key for key, words in WORDS.items() for word in words.split()}

# What people look for and is not here, by what there is instead.
ABSENT: dict[str, str] = {
    **dict.fromkeys(
        "load_in_8bit load_in_4bit quantization quantize bits".split(), "weights are not quantized in training"
    ),
    **dict.fromkeys("packing pack sample_packing".split(), "rows are not packed into one, and no padding is computed"),
    **dict.fromkeys(
        "deepspeed fsdp fsdp_config zero zero_stage".split(),
        "trainer=fsdp shards a model over devices, trainer=ddp copies it",
    ),
    **dict.fromkeys(
        "tensor_parallel tensor_parallel_size tp tp_size pipeline_parallel".split(),
        "a model is sharded by trainer=fsdp; its matrices are not cut: fused heads and an odd vocabulary do not divide",
    ),
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The key that was most likely meant by a name that is not among them; None where none is likely.

    name: a key with or without its groups. known: every dotted key, groups included.
    """
    known = list(known)
    last = _plain(name).rpartition(".")[2]
    if (ours := OURS.get(_plain(name))) in known:
        return ours
    if "." in name and (whole := difflib.get_close_matches(name, known, n=1, cutoff=0.9)):
        return whole[0]
    if (ours := OURS.get(last)) in known:
        return ours
    return None if last in ABSENT else next(_alike(name, known), None)


def absent(name: str) -> str | None:
    """What to say of a thing that is not here at all."""
    return ABSENT.get(_plain(name).rpartition(".")[2])


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _alike(name: str, known: Sequence[str]) -> Iterator[str]:
    """Keys of nearly the same spelling, the same group first; a short word must be nearer than a long one."""
    group, _, last = name.rpartition(".")
    same = [key for key in known if key.rpartition(".")[0] == group]
    for keys in (same, known):
        ends = {key.rpartition(".")[2]: key for key in reversed(keys)}
        close = difflib.get_close_matches(last, ends, n=1, cutoff=0.75 if len(last) > 5 else 0.79)
        yield from (ends[each] for each in close)
