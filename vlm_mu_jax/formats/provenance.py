"""provenance.json of a model folder: where the weights come from."""

from typing import Annotated, Any, TypedDict

from vlm_mu_jax.formats.measures import says


class BaseModelFacts(TypedDict, total=False):
    """The published checkpoint behind a model, however often it was trained since."""

    source: Annotated[str | None, says("what was converted at first")]
    license: Annotated[str | None, says("as the checkpoint's card says")]


class DataFacts(TypedDict, total=False):
    """What a training read."""

    files: Annotated[dict[str, Any] | None, says("file -> SHA-256")]


class ProvenanceFile(TypedDict, total=False):
    """provenance.json of a model folder."""

    kind: Annotated[str, says("the objective of the last training; absent of a model that was converted alone")]
    source: Annotated[str | None, says("of a converted model: folder or hub id")]
    license: Annotated[str | None, says("of a converted model: as the checkpoint's card says")]
    base: Annotated[BaseModelFacts | None, says("of a trained model: the published checkpoint behind it")]
    lora: Annotated[str | None, says("adapter that the conversion merged in")]
    objective: Annotated[dict[str, Any] | None, says("the objective and its options")]
    adapter: Annotated[str | None, says("where the trained adapter lies, or why there is none")]
    data: Annotated[DataFacts | None, says("what the training read, dropped and cut")]
    packages: Annotated[dict[str, str | None] | None, says("package -> version")]
    start_weights_sha256: Annotated[str | None, says("of the weights before the training")]
    weights_sha256: Annotated[str | None, says("of the weights after the training")]
    git_revision: Annotated[str | None, says("of the code, in a checkout")]
