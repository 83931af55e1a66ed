"""The tokenizer of the demo pair: one token a word, words separated by blanks."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from tasks import WORDS

PAD_TOKEN = "<|endoftext|>"  # noqa: S105 - a token of the vocabulary
START_TOKEN = "<|im_start|>"  # noqa: S105
END_TOKEN = "<|im_end|>"  # noqa: S105
UNKNOWN_TOKEN = "<|unknown|>"  # noqa: S105

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|> {{ message.role }} {{ message.content }} <|im_end|> "
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def build_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Build the tokenizer: special tokens first, then the words of the task language."""
    special = [PAD_TOKEN, START_TOKEN, END_TOKEN, UNKNOWN_TOKEN]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        additional_special_tokens=[START_TOKEN],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def prompt_text(question: str) -> str:
    """Render a question as the chat template does, with the generation prompt."""
    return f"{START_TOKEN} user {question} {END_TOKEN} {START_TOKEN} assistant "
