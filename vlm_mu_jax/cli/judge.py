"""Labels answers without a model, and says how far each such judge agrees with people.

--answers labels a file of answers: one a line, or rows of a CSV or JSON lines file (as bin/eval writes).

--labels compares every judge that asks no model with what people said of the same answers: sensitivity, specificity,
accuracy and balanced accuracy with 95 % intervals, one table row a file and judge. It reads XSTest's completions
(columns prompt, completion, final_label) and files with the columns question, answer, label, which tell refusals; and
HarmBench's text_behaviors_val_set.json, which tells harmful answers. --fit makes the weights of the judge `refusal`
anew from labels of refusals.

Example:
  bin/judge --labels=exaggerated-safety/model_completions
  bin/judge --labels=HarmBench/data/classifier_val_sets/text_behaviors_val_set.json
  bin/judge --answers=answers.txt --judge=refusal
"""

from pathlib import Path

from absl import flags

from vlm_mu_jax.cli import command

_LABELS = flags.DEFINE_list("labels", [], "labelled files (CSV, or HarmBench's JSON), or folders of CSV files")
_ANSWERS = flags.DEFINE_string(
    "answers", None, "answers: a text file with one a line, a CSV or a JSON lines file with answer and question"
)
_JUDGE = flags.DEFINE_enum("judge", "refusal", ["refusal", "keyword", "keyword_seed", "rules"], "who labels --answers")
_FIT = flags.DEFINE_bool("fit", False, "fit the judge `refusal` to --labels and its own examples; writes --out")
_OUT = flags.DEFINE_string("out", None, "JSON file to write: the labels, the table, or the fitted weights")


def main(argv: list[str]) -> None:
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.evaluation.judges import agreement_table
    from vlm_mu_jax.files.json_file import write_json

    if bool(_LABELS.value) == bool(_ANSWERS.value) or (_FIT.value and not (_LABELS.value and _OUT.value)):
        raise InputError("give --answers, or --labels, or --labels with --fit and --out; see bin/judge --help")
    if _ANSWERS.value:
        content = agreement_table.label_file(_ANSWERS.value, _JUDGE.value)
        for row in content:
            print(f"{row['label']:<10} {' '.join(row['answer'].split())[:100]}")
    else:
        labelled = agreement_table.read_labelled(_LABELS.value)
        if _FIT.value:
            content = agreement_table.fitted(labelled)
            print(f"{content['rows']} answers, {len(content['weights'])} weights")
        else:
            content = agreement_table.compare(labelled)
            print(agreement_table.text(content))
    if _OUT.value:
        write_json(Path(_OUT.value), content)


if __name__ == "__main__":
    command.run(main, __doc__)
