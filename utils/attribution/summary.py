"""The attributions of a test in words and numbers."""

import numpy as np

LINES = 20  # targets that the terminal gets a line of


def row_of(found, file, threshold):
    """A line of attribution.csv of an `utils.attribution.explain.Attribution`.

    Args:
        file: its name, relative to the folder and without ending.
        threshold: a target is detected if one of its pixels has at least this score.

    Returns:
        Dict of plain values; ratios without denominator are None, `agrees` too where the target is
        not detected.
    """
    integral, shares, made = found.integral, found.shares, found.intervention
    row, column = (found.target.pixels.mean(axis=0) + (found.top, found.left)).tolist()
    score = found.target.score
    line = {
        "file": file,
        "sequence": found.sequence,
        "frame": found.number,
        "row": round(row, 2),
        "column": round(column, 2),
        "kind": found.target.kind,
        "pixels": len(found.target.pixels),
        "peak_score": score,
        "score": integral.end,
        "start_score": integral.begin,
        "completeness_error": float(integral.error),
        "points": integral.points,
        "jumps": integral.jumps,
        "own_before": shares.before,
        "own_at": shares.at,
        "own_after": shares.after,
        "near": shares.near,
        "drawn_near": shares.drawn_near,
    }
    if made is not None:
        names = ("deletion", "insertion", "random_deletion", "random_insertion")
        line |= {f"{name}_area": area for name, area in zip(names, made.areas(), strict=True)}
        line["marked_patches"] = made.marked
        for name, effect in made.effects.items():
            line |= {f"effect_{name}": effect, f"effect_of_others_{name}": made.others[name]}
        detected = score is None or score >= threshold
        line["agrees"] = made.agrees if detected else None
    return line


def attribution_lines(rows, passes, without, what):
    """For the terminal: a line for all targets together, and one for each.

    Args:
        rows: of `row_of`.
        passes: `utils.attribution.scores.Passes` that they took.
        without: number of sequences in which there was nothing to attribute.
        what: that was looked for.
    """
    name = what if isinstance(what, str) else "such pixel"
    if not rows:
        none = f"no {name} in any of {without} sequences, " if without else ""
        return [f"  attribution: {none}nothing is written"]
    judged = [row["agrees"] for row in rows if row.get("agrees") is not None]
    before, at, after, near = (
        100 * np.mean([row[key] for row in rows])
        for key in ("own_before", "own_at", "own_after", "near")
    )
    lines = [
        f"  attribution of {len(rows)} {name}: {before + at + after:.0f} % of the influence on "
        f"their own profiles ({before:.0f} % before, {at:.0f} % in, {after:.0f} % after their "
        f"frame), {near:.0f} % within 3 pixels; intervention agrees in {sum(judged)} of "
        f"{len(judged)} detected; {passes.forward} forward passes, {passes.backward} gradients"
    ]
    if without:
        lines.append(f"    {without} sequences without any")
    for row in rows[:LINES]:
        verdict = {True: "agrees", False: "does not agree", None: "not detected"}[row.get("agrees")]
        jumps = f", {100 * row['jumps']:.1f} % in jumps" if abs(row["jumps"]) > 1e-3 else ""
        lines.append(
            f"    {row['file']}: score {row['score']:.3f} of {row['pixels']} pixels, completeness "
            f"error {100 * row['completeness_error']:+.2f} % with {row['points']} points{jumps}; "
            f"intervention: {verdict}"
        )
    if len(rows) > LINES:
        lines.append(f"    and {len(rows) - LINES} more in attribution.csv")
    return lines
