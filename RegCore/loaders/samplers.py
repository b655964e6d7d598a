"""Which images meet in which order: the sampling of pairs in one epoch, as DeepReg draws it.

Every function takes the random numbers of the epoch, a `random.Random`, and calls it as often and in the same
sequence as DeepReg, so that the same seed gives the same pairs (measured on recorded orders). A pair of an
image of a group is (group, image).
"""

from random import Random

from RegCore.space.geometry import InputError

OPTIONS = ("forward", "backward", "unconstrained")
FourNumbers = tuple[int, int, int, int]


def paired_order(count: int, rng: Random) -> list[int]:
    """All of `count` pairs, each once."""
    order = list(range(count))
    rng.shuffle(order)
    return order


def unpaired_order(count: int, rng: Random) -> list[tuple[int, int]]:
    """``count // 2`` pairs (moving, fixed) of images, no image twice."""
    order = paired_order(count, rng)
    return [(order[i], order[i + 1]) for i in range(0, count - 1, 2)]


def check_grouped(sizes: list[int], probability: float, option: str, sampled: bool) -> None:
    """Check that groups of these sizes give pairs, and that the options do not contradict each other.

    Raises:
        InputError: they give none, or the options do.
    """
    if option not in OPTIONS:
        raise InputError(f"intra_group_option must be one of {', '.join(OPTIONS)}, but it is {option!r}")
    if not 0 <= probability <= 1:
        raise InputError(f"intra_group_prob must lie between 0 and 1, but it is {probability}")
    if not sampled and 0 < probability < 1:
        raise InputError(
            "pairs within and between groups can't be mixed when all pairs are taken: with "
            f"sample_image_in_group false, intra_group_prob must be 0 or 1, but it is {probability}"
        )
    if probability < 1 and len(sizes) < 2:
        raise InputError(
            f"pairs between groups (intra_group_prob is {probability}) need at least two groups, "
            f"but there is {len(sizes)}"
        )
    if probability == 1 and max(sizes) < 2:
        raise InputError("pairs within groups need a group of at least two images, but each holds one")


def all_pairs(sizes: list[int], within: bool, option: str) -> list[FourNumbers]:
    """Every pair (group, image, group, image), moving first, within groups or between them, unshuffled."""
    if not within:
        groups = [(g, h) for g in range(len(sizes)) for h in range(len(sizes)) if g != h]
        return [(g, i, h, j) for g, h in groups for i in range(sizes[g]) for j in range(sizes[h])]
    pairs = []
    for group, size in enumerate(sizes):
        for later in range(size):
            for earlier in range(later):
                forward, backward = (group, earlier, group, later), (group, later, group, earlier)
                pairs += [forward] if option != "backward" else []
                pairs += [backward] if option != "forward" else []
    return pairs


def grouped_order(
    sizes: list[int], probability: float, option: str, sampled: bool, rng: Random
) -> list[FourNumbers]:
    """The pairs (group, image, group, image) of an epoch, moving first.

    Args:
        sizes: number of images of each group.
        probability: of a pair within a group; 0 and 1 are "never" and "always".
        option: "forward": the moving image comes earlier in its group; "backward": later; "unconstrained".
        sampled: one pair for each group as the moving image's; otherwise all pairs, shuffled.
        rng: the random numbers of the epoch.
    """
    if not sampled:
        pairs = all_pairs(sizes, probability == 1, option)
        rng.shuffle(pairs)
        return pairs
    order = paired_order(len(sizes), rng)
    pairs = []
    for group in order:
        if rng.random() < probability:  # drawn even where the outcome is certain, as in DeepReg
            if sizes[group] > 1:
                pairs.append(_within(group, sizes[group], option, rng))
            continue
        other = rng.choice([g for g in range(len(sizes)) if g != group])
        pairs.append((group, rng.choice(range(sizes[group])), other, rng.choice(range(sizes[other]))))
    return pairs


def _within(group: int, size: int, option: str, rng: Random) -> FourNumbers:
    moving, fixed = rng.sample(range(size), 2)
    if option != "unconstrained" and (moving < fixed) != (option == "forward"):
        moving, fixed = fixed, moving
    return group, moving, group, fixed


def label_indices(count: int, sampling: str, rng: Random) -> list[int]:
    """Which of `count` labels of a pair are used: one drawn ("sample") or each in turn ("all")."""
    return [rng.randrange(count)] if sampling == "sample" else list(range(count))


def buffered_shuffle(entries: list, size: int, rng: Random) -> list:
    """The entries as a buffer of `size` gives them out: filled in order, one drawn at random, refilled.

    With a size of 0 or 1 the order stays; from the number of entries on it is a full shuffle.
    """
    if size < 2:
        return list(entries)
    buffer, out = [], []
    for entry in entries:
        buffer.append(entry)
        if len(buffer) == size:
            out.append(buffer.pop(rng.randrange(size)))
    while buffer:
        out.append(buffer.pop(rng.randrange(len(buffer))))
    return out
