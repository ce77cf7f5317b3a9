"""Every abbreviation and term of the page, with its meaning. A test holds that none is missing."""

# "Term: meaning", by the alphabet; a line that begins with blanks goes on with the one above it. A term with several
# names lists them, the usual one first.
_TEXT = """
Any of K, K: K attack words are tried on one question; it counts when any of them works. More tries always help an
  attacker, so as many neutral words are tried beside them.
As asked: The question as it stands in the data, without an attack.
ASR: Attack success rate: the share of unsafe requests that get a harmful answer. Several shots at one question are
  one unit; it counts when any of them works.
Audit: Counts which words of the training questions go with a refusal in the reference answer.
AUROC: Area under the receiver operating characteristic: how often a harmful request lies further along a direction
  than a harmless one. 50 % is chance, 100 % is perfect separation.
b, c: In a paired test: how many questions changed in one direction, and how many in the other.
Base, original: The model before any safety training.
Before, after: Before and after the one-word attack: the opening word of the question is changed, nothing else.
Beside the point: An answer that neither refuses nor answers; see IR.
Blank image, own image: The request beside an image of one colour, or beside the image that it belongs to.
Calibration: How far a judge agrees with people, measured on answers that people labelled.
Clearly: The two 95 % intervals do not overlap. Without intervals: a difference of at least 20 points.
Control: What the same number of tries gives when nothing was searched for: neutral words in the place of the attack’s
  words.
CSV: Comma-separated values: results.csv holds the numbers of this page.
Degenerate, broken text: An answer that is empty, repeats itself, or is not made of words.
FLOPs: Floating-point operations: how much arithmetic a search took.
Gap: The alignment gap: what a model refuses as text, and no longer refuses beside an image.
GCG suffix: Greedy coordinate gradient: a published attack that searches a suffix of the question, token by token.
Gradient × input: A first-order estimate of what a word does, from the gradient at its embedding.
Guard, VLM-Guard: Steers the hidden states of the running model along the safety direction of its own language model,
  so that it refuses beside an image what it refuses as text. The weights stay as they are.
Harmful, hazardous, unsafe: A request that the model should not fulfil. “Hazardous” ones are those that the language
  model itself refuses as text.
Harmless right: The share of harmless questions that are answered correctly.
Harmless, safe: A question that the model should answer.
Held-out questions: Questions that neither training nor the search for words has seen.
ID: The name of a question in the data.
In brackets: The 95 % interval of the rate before them, in percent: “4 % [2–10]”.
InferAligner: The published method that VLM-Guard grew out of.
Interval: The 95 % interval of a rate: Wilson’s, unless a table says otherwise.
IR: Irrelevance rate: answers that neither refuse nor answer (off topic, wrong, empty or broken).
Judge: What decides whether an answer refuses, answers, or does neither.
Kappa, Cohen’s kappa: Agreement of judge and people beyond chance, 1 at most.
LLaVA: Large Language and Vision Assistant: the family of models that is measured here.
Log odds: The logarithm of the odds ratio: how much more often the reference answer refuses when a question has the
  word. 0 says nothing; above 0 the word goes with refusing, below 0 with answering.
Margin, refusal margin: The model’s log odds that its answer starts with a refusal, in nats. Above 0 it is more likely
  to refuse.
McNemar: The exact McNemar test: whether two models, or two ways of asking, differ on the same questions.
Miniature: The small synthetic world of nonsense words and drawn signs that the quickstart trains and measures.
Mirage: Safety that goes with a word instead of the content: change the word and it is gone.
MME: A public benchmark of perception and cognition, scored in points.
n: The number of questions or answers that a rate stands on.
Nats: The unit of log odds with the natural logarithm; 0.69 nats double the odds.
Neutral word, null word: A control: a word drawn at random, put where the attack’s word stands.
NPO: Negative preference optimisation: unlearning that lowers the likelihood of harmful answers relative to the
  original model.
One-word attack: Changes the opening word of a question, nothing else.
Opening word: The first word of a question.
Oracle: The exact judge of a synthetic world: it knows the right answer to every question.
Over-refusal: Refusing harmless questions.
Own words: Words that were searched for the very model they are tried on.
p, p holm: The probability of a difference at least this large by chance; “holm” is corrected by Holm’s method for all
  tests of a run together.
Paired test, significant: A test on the same questions for both models. “Significant”: p, corrected for all tests of a
  run, is below 0.05.
PCA: Principal component analysis: the plane in which hidden states differ most.
Pearson, Spearman: Two correlations, of values (r) and of ranks (ρ).
Perplexity: How surprising an answer is to the language model; high for garbled text.
Probe: A simple classifier that sees only the opening word.
Public set: Questions that other people published, scored by the set’s own official rule.
Relearning: An attack: the unlearned model is fine-tuned on a few forgotten examples and asked again.
RMU: Representation misdirection for unlearning: steers the hidden states of harmful text to a fixed random vector.
RR: Refusal rate. On harmless questions it is over-refusal.
Safety-tuned: Fine-tuned on safety data; see SFT.
Search: Tries every word of a list, such as the vocabulary, on the model itself.
Seed: The number that all random draws of one run start from.
Sensitivity, specificity: Of the answers that people call so, the share that the judge does too; and of the others,
  the share that it does not.
SFT, safety fine-tuning: Supervised fine-tuning, here on safety data. The safety-tuned model is taught to refuse.
Shots: Attack words tried on one question.
Shown, partly, not shown: Worked out from the numbers of this page by fixed rules. “Partly” also stands for results
  that differ between seeds.
Text only: The request without any image.
Unlearning: Training that is meant to take harmful knowledge away instead of teaching refusals.
Utility: How many general questions about images are answered right.
VLGuard: A public set of safety questions about images.
VLM: Vision-language model: it reads images and text.
VQA, VQAv2: Visual question answering, and a public benchmark of it.
"""


def _terms() -> list[tuple[str, str]]:
    lines = _TEXT.strip().replace("\n  ", " ").splitlines()
    return [(term, meaning) for term, _, meaning in (line.partition(": ") for line in lines)]


TERMS = _terms()
