"""Text references: an expression becomes tokens that UniFusion reads.

The BERT network comes from the transformers library, built from a config object; nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from engines.errors import UnsupportedReference, WeightsError
from engines.uniref.config import TextConfig
from engines.uniref.unifusion import Reference, ReferenceTokens
from engines.uniref.words import WORDS

_DELETED = str.maketrans("", "", ".,'!?\"()*#:;")
_SPACED = str.maketrans("-/", "  ")
_LAYER_NORM_EPS = 1e-12


def clean_expression(text: str) -> str:
    """Lower case, punctuation deleted, hyphens and slashes as spaces: how the training texts were read."""
    return text.lower().translate(_DELETED).translate(_SPACED)


class Resizer(nn.Module):
    """From BERT's width to the network's."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=_LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., dim]."""
        return cast(Tensor, self.layer_norm(self.fc(x)))


def build_bert(config: TextConfig) -> nn.Module:
    """An untrained BERT of that size."""
    from transformers import BertConfig, BertModel

    sizes = BertConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feedforward,
        max_position_embeddings=config.max_positions,
    )
    sizes._attn_implementation = "eager"
    return cast(nn.Module, BertModel(sizes))


class WordEncoder(nn.Module):
    """A small transformer over whole words, for a vocabulary of a few dozen."""

    def __init__(self, config: TextConfig, dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.places = nn.Embedding(config.max_positions, config.width)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.resizer = Resizer(config.width, dim)

    def forward(self, ids: Tensor, attention: Tensor, levels: int = 4) -> Reference:
        """[B, N] word ids and attention (1 where a word counts) to a reference for `levels` levels."""
        places = torch.arange(ids.shape[1], device=ids.device)
        read = self.layers(self.words(ids) + self.places(places), src_key_padding_mask=attention == 0)
        return text_reference(self.resizer(read), attention, levels)


def text_reference(tokens: Tensor, attention: Tensor, levels: int) -> Reference:
    """[B, N, C] tokens as a reference; its condition is the mean of those that count."""
    weight = attention.to(tokens).unsqueeze(-1)
    sentence = (tokens * weight).sum(1) / weight.sum(1)
    padding = None if bool((attention != 0).all()) else attention == 0
    return (ReferenceTokens(tokens, tokens, sentence, padding),) * levels


def build_text_encoder(config: TextConfig, dim: int) -> nn.Module:
    """The text encoder that the config asks for."""
    return WordEncoder(config, dim) if config.kind == "words" else TextEncoder(config, dim)


class TextEncoder(nn.Module):
    """BERT and the resizer.

    Padding tokens never reach any other token, so a text is encoded at its own length.
    """

    def __init__(self, config: TextConfig, dim: int) -> None:
        super().__init__()
        self.bert = build_bert(config)
        self.resizer = Resizer(config.width, dim)

    def hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """BERT's last hidden state, [B, N, width]. attention: [B, N], 1 where a token counts."""
        # Given here because BERT's own buffers for them are not part of a checkpoint.
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        output = self.bert(ids, attention, token_type_ids=torch.zeros_like(ids), position_ids=positions)
        return cast(Tensor, output.last_hidden_state)

    def forward(self, ids: Tensor, attention: Tensor, levels: int = 4) -> Reference:
        """[B, N] token ids and attention (1 where a token counts) to a reference for `levels` levels."""
        return text_reference(self.resizer(self.hidden(ids, attention)), attention, levels)


@dataclass(frozen=True)
class TokenizedText:
    """ids: token ids with [CLS] and [SEP]. unknown: words that the vocabulary does not have."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]


class Tokenizer(Protocol):
    """Turns an expression into token ids."""

    def tokenize(self, text: str) -> TokenizedText:
        """Raises UnsupportedReference if the text is empty, too long or wholly unknown."""
        ...


class WordPieces:
    """WordPiece over a vocabulary file (one token per line), at most `context_length` tokens."""

    def __init__(self, tokens: Sequence[str], context_length: int = 77) -> None:
        from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

        missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in tokens]
        if missing:
            raise WeightsError(f"the vocabulary lacks {', '.join(missing)}; is it a BERT vocabulary, one token a line?")
        self.tokens = tuple(tokens)
        self.context_length = context_length
        index = {token: position for position, token in enumerate(tokens)}
        self._tokenizer: Any = BertWordPieceTokenizer(vocab=index, lowercase=True)
        self._unknown_id = index["[UNK]"]

    @classmethod
    def read(cls, path: Path, context_length: int = 77) -> WordPieces:
        """Read a `vocab.txt`. Raises WeightsError."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise WeightsError(f"cannot read the vocabulary {path}: {error}; fetch the weights again") from error
        return cls(text.rstrip("\n").split("\n"), context_length)

    def tokenize(self, text: str) -> TokenizedText:
        """Token ids of an expression. Raises UnsupportedReference if it is empty, too long or wholly unknown."""
        cleaned = clean_expression(text)
        words = cleaned.split()
        if not words:
            raise UnsupportedReference(f"the text {text!r} has no words; describe the object in a few words")
        ids = tuple(self._tokenizer.encode(cleaned).ids)
        if len(ids) > self.context_length:
            raise UnsupportedReference(
                f"the text has {len(ids)} tokens and the model reads {self.context_length}; shorten it"
            )
        unknown = tuple(word for word in words if self._unknown_id in self._tokenizer.encode(word).ids)
        if len(unknown) == len(words):
            raise UnsupportedReference(f"none of the words {', '.join(unknown)} is in the vocabulary")
        return TokenizedText(ids, unknown)


class Words:
    """Whole words of a small vocabulary; unknown ones are left out and named."""

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._index = {word: position for position, word in enumerate(words)}

    def tokenize(self, text: str) -> TokenizedText:
        """Ids of the known words. Raises UnsupportedReference if there are none, or too many."""
        words = clean_expression(text).split()
        known = tuple(self._index[word] for word in words if word in self._index)
        if not known:
            raise UnsupportedReference(
                f"no word of {text!r} is known to this engine; it knows: {', '.join(sorted(self.words))}. "
                "For free text use the engine uniref"
            )
        if len(known) > self.context_length:
            raise UnsupportedReference(f"the text has {len(known)} words, at most {self.context_length} are read")
        return TokenizedText(known, tuple(word for word in words if word not in self._index))


def build_tokenizer(config: TextConfig, vocabulary: Path | None) -> Tokenizer | None:
    """The tokenizer that goes with a text encoder; None for word pieces without their vocabulary file."""
    if config.kind == "words":
        return Words(WORDS, config.context_length)
    return None if vocabulary is None else WordPieces.read(vocabulary, config.context_length)
