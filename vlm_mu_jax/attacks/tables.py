"""The results of audits and attacks as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_mu_jax.evaluation.results.table import verdict_lines


def attack_table(result: Mapping[str, Any]) -> str:
    """The content of attack.json as bin/attack prints it."""
    text = _other_methods(result) if "method" in result else _one_word(result)
    if line := turn_line(result):
        text = f"{line}\n{text}"
    if result.get("judge_cost"):  # of a judge that asks a model
        text += "\n" + "\n".join(verdict_lines(result))
    return text


def turn_line(result: Mapping[str, Any]) -> str:
    """Which question of the conversations an audit or an attack was about; "" where all have one question."""
    turn, counts = result.get("turn"), result.get("turns") or {}
    if not any(counts.values()):
        return ""
    which = f"the {turn} question" if turn in ("first", "last") else f"question {turn}"
    parts = {
        "behind_turns": "stand behind earlier turns",
        "before_turns": "have later ones, which are left out",
        "left_out": "conversations have no such question",
        "too_long": "are too long for the model and left out",
    }
    said = ", ".join(f"{counts[key]} {what}" for key, what in parts.items() if counts.get(key))
    return f"{which} of every conversation (--turn={turn}): {said}"


def shown(metric: Mapping[str, Any]) -> str:
    """`12.5 % [5.0, 28.1]  (4/32)` of a metric."""
    if metric["value"] is None:
        return "no judged answer"
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:5.1f} % [{low:.1f}, {high:.1f}]  ({metric['k']}/{metric['n']})"


def audit_text(result: Mapping[str, Any], top: int) -> str:
    """All tables of audit.json. top: words that each shows."""
    parts = [audit_table(result, top)]
    if "attribution" in result:
        parts.append(attribution_text(result["attribution"]))
    if "saliency" in result:
        parts.append(saliency_text(result["saliency"], top))
    return "\n\n".join(parts)


def audit_table(result: Mapping[str, Any], top: int) -> str:
    """The most frequent first words of an audit, its probe and its candidates. top: how many words of each."""
    probe, labels = result["probe"], result["labels"]
    lines = [
        f"{result['n']} questions: {labels['unsafe']} unsafe, {labels['safe']} safe,"
        f" {labels['refused']} with a refusing answer",
        *_misread(result),
        f"the first word alone predicts {result['outcome']} with accuracy {probe['accuracy']:.3f}"
        f" [{probe['low']:.3f}, {probe['high']:.3f}], the majority {probe['majority']:.3f} (p {probe['p']:.2g})",
        "",
        f"{'first word':<16}{'unsafe':>8}{'safe':>8}{'refused':>9}{'answered':>10}{'PMI':>8}{'log odds':>10}"
        "   95 % interval",
    ]
    for row in [r for r in result["rows"] if r["position"] == "first"][:top]:
        lines.append(
            f"{row['word'][:15]:<16}{row['unsafe']:>8}{row['safe']:>8}{row['refused']:>9}{row['answered']:>10}"
            f"{row['pmi']:>8.2f}{row['log_odds']:>10.2f}   [{row['low']:.2f}, {row['high']:.2f}]"
        )
    for name, key in (("jailbreak", "jailbreak_candidates"), ("over-refusal", "over_refuse_candidates")):
        words = [c["word"] + ("" if c["beyond_chance"] else " (?)") for c in result[key][:top]]
        lines.append(f"candidate {name} words: {', '.join(words) or 'none'}")
    return "\n".join(lines)


def _misread(result: Mapping[str, Any]) -> list[str]:
    """What of the data the counts cannot show: unsafe references taken for answers, turns that were not read."""
    labels, lines = result["labels"], []
    if labels["unsafe_references"]:
        lines.append(
            f"{labels['unsafe_answered']} of {labels['unsafe_references']} reference answers to unsafe questions were"
            " taken for answers (refusals that the judge missed, or answers that should be none)"
        )
    if line := turn_line(result):
        lines.append(line)
    return lines


def attribution_text(found: Mapping[str, Any]) -> str:
    """The correlations of `audit.attribution.attribute`."""
    names = {
        "change": "log odds in the data against the change of the refusal margin",
        "removed": "against what of that change is gone after rebalancing",
    }
    lines = []
    for name, parts in found["correlations"].items():
        lines.append(f"{names[name]}:")
        for seen, one in parts.items():
            where = f"words seen {'at this place' if seen == 'here' else 'elsewhere'}"
            if one is None:
                lines.append(f"  {where}: too few for a correlation")
            else:
                shown = [
                    f"{kind.title()} {one[kind]['value']:.2f} [{one[kind]['low']:.2f}, {one[kind]['high']:.2f}]"
                    for kind in ("pearson", "spearman")
                ]
                lines.append(f"  {one['n']} {where}: {', '.join(shown)}")
    return "\n".join(lines)


def saliency_text(found: Mapping[str, Any], top: int) -> str:
    """What `audit.saliency.record_saliency` found. top: how many first words."""
    lines = [f"which words decide the refusal, in {found['n']} questions (chance: {_percent(found['chance'])}):"]
    for method, name in (("removal", "taking a word out"), ("gradient_x_input", "gradient x input")):
        one = found[method]
        first = one["opening_first"]
        lines.append(
            f"  {name}: the first word has the largest effect in {first['k']} of {first['n']},"
            f" {_percent(one['opening_share'])} of all effects"
        )
    for word, one in list(found["removal"]["by_opening"].items())[:top]:
        lines.append(f"  {word!r} as the first word: margin {one['effect']:+.2f} nats, mean of {one['n']}")
    return "\n".join(lines)


def rebalanced_text(manifest: Mapping[str, Any], out: str | Path) -> str:
    """What rebalancing has done. manifest: of `audit.rebalance.rebalance`, which wrote `out`."""
    total = sum(manifest["rebalanced"]["records"].values())
    probes = [manifest[name]["probe"] for name in ("source", "rebalanced")]
    return (
        f"rebalanced: {manifest['changed']} of {total} questions have another opening word in {out}; the first word"
        f" alone now predicts with accuracy {probes[1]['accuracy']:.3f} [{probes[1]['low']:.3f},"
        f" {probes[1]['high']:.3f}] instead of {probes[0]['accuracy']:.3f}, the majority {probes[1]['majority']:.3f}"
    )


def _one_word(result: Mapping[str, Any]) -> str:
    found = result["openings"]
    lines = [
        f"{result['vocabulary_size']} words at {', '.join(result['positions'])} ({result['mode']}),"
        f" judged by {result['judge']}; refusal openings ({found['source']}): {'; '.join(found['texts'])}"
    ]
    for position, part in result["by_position"].items():
        for goal, rate, name in (("jailbreak", "asr", "attack success"), ("over_refuse", "rr", "refusal rate")):
            if rate in part["any_of_k"]:
                searched, facts = result["n_search"][goal], result.get("word_facts", {})
                lines += ["", *_goal_lines(part, goal, rate, name, position, searched, facts)]
    return "\n".join(lines)


def _word_facts(found: Mapping[str, int] | None) -> str:
    """`, 2 tokens, rank 135` of a word."""
    if not found:
        return ""
    tokens = f", {found['tokens']} token{'' if found['tokens'] == 1 else 's'}"
    return tokens + (f", rank {found['rank']}" if "rank" in found else "")


def _goal_lines(
    part: Mapping[str, Any],
    goal: str,
    rate: str,
    name: str,
    position: str,
    searched: int,
    facts: Mapping[str, Mapping[str, int]],
) -> list[str]:
    summary, k = part["any_of_k"][rate], len(part[goal])
    own, search = summary["per_question"], part["search"][goal]
    lines = [
        f"{goal} at {position}: {name} on {part['n_verify'][goal]} questions (searched on {searched} others)",
        f"  {'unchanged':<20}{shown(summary['original'])}",
        *(
            f"  {entry['word']:<20}{shown(entry[rate])}   margin {entry['score']:.2f}"
            + _word_facts(facts.get(entry["word"]))
            for entry in part[goal]
        ),
        f"  {'any of these ' + str(k):<20}{shown(summary['any_of_k'])}",
        *(f"  {row['word'] + ' (null)':<20}{shown(row[rate])}" for row in part["null"] if row["goal"] == goal),
        f"  {'any of the null':<20}{shown(summary['any_of_k_null'])}",
        f"  {'own words':<20}{shown(own['any_of_k'])}   each search question under its own best {k}, on itself",
    ]
    if goal == "over_refuse" and part.get("breaking_words"):
        lines.append(f"  left out, they break the model before tuning: {', '.join(part['breaking_words'])}")
    if search["run_as_whole_prompts"]:
        whole, prompts = search["run_as_whole_prompts"], search["prompts"]
        lines.append(f"  {whole} of {prompts} prompts share no prefix with their question and were run whole")
    return lines


def _other_methods(result: Mapping[str, Any]) -> str:
    lines = [f"{result['method']}, judged by {result['judge']}; control: {result['control']}"]
    if result["openings"]:
        lines.append(f"searched for {result['towards']}: {'; '.join(result['openings'])}")
    for rate, goal, name in (("asr", "jailbreak", "attack success"), ("rr", "over_refuse", "refusal rate")):
        if part := result["any_of_k"].get(rate):
            k, spent = result["k"][goal], result["budget"][goal]
            lines += ["", f"{goal}: {name} on {part['n']} questions, any of {k}"]
            lines += _rates(part)
            for key, how in (("per_question", "each with its own suffix"), ("on_search_questions", f"any of {k}")):
                if own := part.get(key):
                    lines += [f"the {own['n']} questions it was searched on, {how}:", *_rates(own)]
            budget = ", ".join(f"{value:.3g} {unit}" for unit, value in spent.items() if value)
            lines.append(f"  spent: {budget}")
    return "\n".join(lines)


def _rates(part: Mapping[str, Any]) -> list[str]:
    rows = {"unchanged": "original", "attack": "any_of_k", "control": "any_of_k_null", "word alone": "word_alone"}
    p = part["words_against_null"]["p"]
    shown_rows = [f"  {name:<20}{shown(part[key])}" for name, key in rows.items() if key in part]
    labels = ", ".join(f"{count} {label}" for label, count in part["labels"]["attack"].items())
    return [*shown_rows, f"  attack against control: exact McNemar p = {p:.2g}; answers under attack: {labels}"]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
