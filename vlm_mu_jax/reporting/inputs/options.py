"""What a report is made of besides the runs. Every input is optional; a part without input is left out with a note."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ReportOptions:
    """The optional inputs of a report, as paths of the files that other commands wrote.

    Attributes:
      attack: attack.json of `bin/attack`, the one-word search of the safety fine-tuned model.
      attack_again: model name -> attack.json of a search made for that model.
      audit: audit.json of `bin/audit`, the word audit of the training data.
      guard_diagnostics: JSON of `bin/guard diagnose`, hidden states with and without an image.
      training: folders of `bin/train`, or their metrics.jsonl.
      export: a folder that `bin/convert_hf --export` wrote.
      sweep: sweep.json of `bin/train`; one at most.
      relearning: relearn.json files of `bin/relearn`.
      saliency: audit.json files of `bin/audit --saliency`.
      methods: attack.json files of `bin/attack` with other methods than one word.
      holds: holds.json files of `bin/holds`.
      defences: defences.json files of `bin/defences`.
      images: the folder of the data; small copies of its images stand beside the answers.
      show_text: puts text and images of real data into the page. Those of the miniature always are.
      figures: a folder that every figure is written to as well, as SVG and as PNG.
      inspect_log: a folder that every run is written to as a log of inspect-ai.
      lmms_eval: a folder that every run is written to as the results and samples of lmms-eval.
      parquet: a folder for answers.parquet and results.parquet.
    """

    attack: Path | None = None
    attack_again: Mapping[str, Path] = field(default_factory=dict)
    audit: Path | None = None
    guard_diagnostics: Path | None = None
    training: Sequence[Path] = ()
    export: Path | None = None
    sweep: Sequence[Path] = ()
    relearning: Sequence[Path] = ()
    saliency: Sequence[Path] = ()
    methods: Sequence[Path] = ()
    holds: Sequence[Path] = ()
    defences: Sequence[Path] = ()
    images: Path | None = None
    show_text: bool = False
    figures: Path | None = None
    inspect_log: Path | None = None
    lmms_eval: Path | None = None
    parquet: Path | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """The folders that are written to beside the page, by their option."""
        names = ("figures", "inspect_log", "lmms_eval", "parquet")
        return {name: folder for name in names if (folder := getattr(self, name)) is not None}
