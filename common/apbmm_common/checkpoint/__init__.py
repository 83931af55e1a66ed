"""Checkpoint folders in Hugging Face layout, read without torch: headers and configs, no weights.

- `headers`: a folder as a `Checkpoint` (`read_checkpoint`), its tensors, and which layer a tensor
  belongs to (`layer_of`, `layer_count`);
- `tensor_groups`: the tensors outside the layers, in groups (`outside_group`), and the tensors that
  a merge leaves out (`optional_tensors`);
- `contents`: whether files or tensors hold the same bytes, which alone reads weights;
- `config_differences`: in what two ``config.json`` differ (`config_differences`);
- `compatibility`: whether checkpoints can be merged (`compatibility_faults`);
- `settings_files`: tokenizer, chat template and generation config (`unusable_settings`);
- `vocabularies`: tokenizers' vocabularies, and sources cut to the rows of the vocabulary that all
  have (`with_common_vocabulary`);
- `lora_adapters`: LoRA adapters, and what they change in their base (`read_adapted`);
- `roles`: the role of the source that is treated unlike the others;
- `identical_layers`: the layers that are the same in all sources;
- `byte_order_marks`: a folder that transformers reads, whatever wrote its JSON files;
- `remote_code`: Python code that comes with a checkpoint.

All of them raise `SourceError` for files that are missing, damaged or unreadable.
"""

__all__ = [
    "byte_order_marks",
    "compatibility",
    "config_differences",
    "contents",
    "headers",
    "identical_layers",
    "lora_adapters",
    "remote_code",
    "roles",
    "settings_files",
    "tensor_groups",
    "vocabularies",
]
