"""Request bodies of the transform routes, which are stored with their jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.cube.model import Name, Placement, State, Strict, Text
from memos_vllm.parametric.training.order import Gate, Question, Recipe


class Distill(Strict):
    """Train an adapter on cubes of text."""

    also: list[Text] = Field(
        default_factory=list, max_length=64, description="further cubes that it learns"
    )
    name: Name | None = Field(None, description="of the cube that is made")
    into: Text | None = Field(
        None,
        max_length=200,
        description="a parametric cube that gets a new version instead of a new cube",
    )
    placement: Placement = Field(
        Placement.RETRIEVED, description="stable: attached to every request of its readers"
    )
    exam: list[Question] = Field(
        default_factory=list,
        max_length=1000,
        description="questions that the gate asks; without any the model writes some itself",
    )
    merge: Literal["cat", "svd", "ties", "dare_ties"] | None = Field(
        None,
        description="start from the merged weights of the named adapters, by this method: merging alone forgets, "
        "and a short training restores what it forgot",
    )
    teacher: Literal["text", "kv"] = Field(
        "text",
        description="context of the teacher: the text, or its stored KV (computed if it is missing), "
        "which needs a server with a KV tier",
    )
    recipe: Recipe = Recipe()
    gate: Gate = Gate()
    max_seconds: float | None = Field(None, gt=0, description="default: `training.max_seconds`")


class Recover(Strict):
    """Trace stored KV back to its text, and store that as a cube."""

    name: Name | None = Field(None, description="of the cube that is made")
    state: Literal[State.GENERATED, State.ACTIVATED] = State.GENERATED


class Compact(Strict):
    """Make KV of a cube's text in fewer places than it has tokens."""

    method: Literal["match", "distil"] = Field(
        "match",
        description="match: attention matching, without gradients, seconds; distil: trained on the answers of the "
        "model with the text in its prompt, minutes",
    )
    ratio: float | None = Field(
        None,
        gt=1,
        le=64,
        description="tokens of the text for each place; default: match 2, distil 8",
    )
    places: int | None = Field(None, ge=1, le=65536, description="in place of `ratio`")
    steps: int = Field(140, ge=1, le=100_000, description="distil: steps of the training")
    learning_rate: float = Field(0.02, gt=0, lt=1, description="distil")
    exam: list[Question] = Field(
        default_factory=list,
        max_length=1000,
        description="questions that the gate asks; distil: without any the model writes some itself",
    )
    max_kl: float | None = Field(
        None,
        gt=0,
        description="largest mean KL of held-out answers from the teacher's, which has the text (distil: the passage) "
        "in its prompt, nats; above, the cube stays text; default: match 0.2, distil 0.5",
    )
    gate: Gate = Gate()
    max_seconds: float | None = Field(None, gt=0, description="default: `training.max_seconds`")


class Decode(Strict):
    """Ask an adapter questions, and store its consistent answers as text."""

    topics: list[Text] = Field(
        default_factory=list,
        max_length=256,
        description="topics to ask about, beside the adapter's own",
    )
    name: Name | None = Field(None, description="of the cube that is made")
    state: Literal[State.GENERATED, State.ACTIVATED] = Field(
        State.GENERATED, description="activated: prompts may use it without a person's review"
    )
    kv: bool = Field(
        False, description="build its KV, too; needs `state: activated` and a server with a KV tier"
    )
    samples: int = Field(5, ge=2, le=32, description="answers per question")
    agreement: float = Field(
        0.6,
        gt=0,
        le=1,
        description="share of the answers that must agree for a statement to be stored",
    )
    rounds: int = Field(
        3, ge=1, le=10, description="rounds of questions; each asks about names in what was found"
    )
    max_seconds: float | None = Field(None, gt=0, description="default: `training.max_seconds`")
