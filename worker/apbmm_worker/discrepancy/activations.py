"""Pooled hidden states of a model on prompts, and how far two models' states point apart.

States are taken by hooks on the decoder layers themselves. The ``output_hidden_states`` of
transformers is right for every layer except the last, whose entry is taken after the final norm.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from apbmm_common.checkpoint.byte_order_marks import without_marks
from apbmm_common.checkpoint.headers import is_multimodal, layer_of
from apbmm_common.errors import SourceError

_log = logging.getLogger(__name__)

Pooling = Literal["last", "mean"]


def encode_prompts(
    template_folder: Path, prompts: Sequence[str], *, max_tokens: int, remote_code: bool = False
) -> list[list[int]]:
    """Token ids of each prompt as a user's turn, up to where the answer begins.

    There are at most ``max_tokens``. A prompt that is too long loses the end of its own text (the
    authors' code also keeps the first 256 tokens), never the template around it, so that the last
    token, which pooling takes, is always the one before the answer. Raises `SourceError` when there
    are no prompts, the folder has no usable tokenizer or chat template, or the template alone is
    too long.
    """
    if not prompts:
        raise SourceError("the discrepancy needs at least one prompt")
    tokenizer = _load_tokenizer(template_folder, remote_code)
    if not tokenizer.chat_template:
        raise SourceError(
            f"{template_folder}: its tokenizer has no chat template",
            "name the other source in generation.template_from",
        )
    return [_encode(tokenizer, prompt, max_tokens) for prompt in prompts]


def pooled_states(
    folder: Path,
    encoded: Sequence[Sequence[int]],
    *,
    layers: int,
    batch: int,
    pooling: Pooling,
    device: str,
    remote_code: bool = False,
    step: Callable[[int], None] = lambda _count: None,
) -> torch.Tensor:
    """Run one model on the prompts; float32 states of shape (prompts, layers, hidden) on the CPU.

    The state of layer l is that layer's own output at the prompt's last token, or its mean over
    the prompt's tokens. Padding is on the right, where causal attention never looks, and never
    pooled. Of a model that does not fit on the device, each layer is there while it computes. The
    model is removed from the device at the end. ``remote_code``: run the Python code that comes
    with it. ``step`` is called with the prompts of each batch that was run. Raises `SourceError`
    when it cannot be loaded or gives a state that is not finite.
    """
    try:
        states = _states(folder, encoded, layers, batch, pooling, device, remote_code, step)
    finally:
        # Nothing refers to the model any more, but its modules refer to each other.
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    finite = states.isfinite().all(dim=2).all(dim=0)
    if not bool(finite.all()):
        layer = int((~finite).nonzero()[0])
        raise SourceError(
            f"{folder}: the activations of layer {layer} are not finite",
            "float16 may overflow here: try a bfloat16 copy of the sources",
        )
    return states


def cosine_discrepancy(first: torch.Tensor, second: torch.Tensor, batch: int) -> tuple[float, ...]:
    """Eq. 7-8: mean over mini-batches of the mean over prompts of ``1 - cos``, for each layer.

    Both arguments have shape (prompts, layers, hidden). A shorter last batch counts as much as
    the others, as in the paper. Values are in [0, 2].
    """
    directions = [
        torch.nn.functional.normalize(states.double(), dim=2) for states in (first, second)
    ]
    # 1 - cos(a, b) = ||a/|a| - b/|b|||^2 / 2, which is exactly 0 for equal states.
    distance = (directions[0] - directions[1]).square().sum(dim=2) / 2
    means = torch.stack([part.mean(dim=0) for part in distance.split(batch)])
    return tuple(means.mean(dim=0).tolist())


def _encode(tokenizer: Any, prompt: str, max_tokens: int) -> list[int]:
    content = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    keep = len(content)
    ids = _templated(tokenizer, prompt)
    # A shortened text may be tokenised into more tokens than were kept; then it is cut again.
    while len(ids) > max_tokens:
        keep -= len(ids) - max_tokens
        if keep <= 0:
            raise SourceError(
                f"the chat template leaves no room for a prompt in {max_tokens} tokens",
                "raise prior.max_tokens",
            )
        ids = _templated(tokenizer, tokenizer.decode(content[:keep]))
    return ids


def _templated(tokenizer: Any, content: str) -> list[int]:
    messages = [{"role": "user", "content": content}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return [int(token) for token in ids]


def _states(
    folder: Path,
    encoded: Sequence[Sequence[int]],
    layers: int,
    batch: int,
    pooling: Pooling,
    device: str,
    remote_code: bool,
    step: Callable[[int], None],
) -> torch.Tensor:
    model = _load_model(folder, remote_code)
    stack = _decoder_layers(model, folder, layers)
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        _log.warning("%s does not fit on the card: its layers are there in turn", folder)
        model.to("cpu")
        _place_in_turn(model, stack, device)
    batches = [encoded[begin : begin + batch] for begin in range(0, len(encoded), batch)]
    states = []
    for part in batches:
        states.append(_run(model, stack, part, pooling, device))
        step(len(part))
    return torch.cat(states)


def _place_in_turn(model: Any, stack: Sequence[Any], device: str) -> None:
    """Put a model on a device, and each decoder layer only while it computes."""
    of_layers = {id(values) for layer in stack for values in _values(layer)}
    for values in _values(model):
        if id(values) not in of_layers:
            values.data = values.data.to(device)
    for layer in stack:
        at_home = [(values, values.data) for values in _values(layer)]

        def bring(*_: Any, of_layer: Any = at_home) -> None:
            for values, data in of_layer:
                values.data = data.to(device)

        def take_back(*_: Any, of_layer: Any = at_home) -> None:
            for values, data in of_layer:
                values.data = data

        layer.register_forward_pre_hook(bring)
        layer.register_forward_hook(take_back)


def _values(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _run(
    model: Any,
    stack: Sequence[Any],
    prompts: Sequence[Sequence[int]],
    pooling: Pooling,
    device: str,
) -> torch.Tensor:
    """One batch: pooled states (prompts, layers, hidden) on the CPU."""
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    # Any token serves as padding: the mask hides it.
    ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=device)
    mask = torch.arange(longest, device=device) < lengths[:, None]
    pooled: list[Any] = [None] * len(stack)

    def pool(states: torch.Tensor) -> torch.Tensor:
        if pooling == "last":
            return states[torch.arange(len(prompts), device=device), lengths - 1].float()
        return (states.float() * mask[:, :, None]).sum(dim=1) / lengths[:, None]

    def hook(index: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            # Some architectures return a tuple that begins with the hidden states.
            states = output[0] if isinstance(output, tuple) else output
            pooled[index] = pool(states).cpu()

        return keep

    handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(stack)]
    try:
        with torch.inference_mode():
            # Without the head: logits of every token would be the largest tensor by far.
            model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(pooled, dim=1)


def _decoder_layers(model: Any, folder: Path, layers: int) -> list[Any]:
    """The modules whose names are exactly those of layers 0..layers-1, in that order."""
    found = {}
    for name, module in model.named_modules():
        index = layer_of(f"{name}.weight")
        if index is not None and name.endswith(f".{index}") and index not in found:
            found[index] = module
    if sorted(found) != list(range(layers)):
        raise SourceError(
            f"{folder}: transformers builds {len(found)} layers of it, the tensors are of {layers}"
        )
    return [found[index] for index in range(layers)]


def _load_model(folder: Path, remote_code: bool) -> Any:
    transformers.utils.logging.disable_progress_bar()
    try:
        with without_marks(folder) as readable:
            model, info = _loader(readable, remote_code).from_pretrained(
                readable,
                local_files_only=True,
                trust_remote_code=remote_code,
                use_safetensors=True,
                dtype="auto",
                output_loading_info=True,
            )
    except Exception as error:
        said = str(error).split("\n", 1)[0]
        raise SourceError(f"{folder}: transformers cannot load the model: {said}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill it with random numbers.
        raise SourceError(f"{folder}: the weights lack tensor {missing[0]}")
    return model.eval()


def _loader(folder: Path, remote_code: bool) -> Any:
    """The class that loads a model: multimodal ones need not have a language model's."""
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=remote_code
    )
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or not is_multimodal(
        config.to_dict()
    ):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForImageTextToText


def _load_tokenizer(folder: Path, remote_code: bool) -> Any:
    try:
        with without_marks(folder) as readable:
            return transformers.AutoTokenizer.from_pretrained(
                readable, local_files_only=True, trust_remote_code=remote_code
            )
    except Exception as error:
        raise SourceError(f"{folder}: transformers cannot load the tokenizer: {error}") from error
