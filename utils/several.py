"""Options of the command line that take one value or several."""

import argparse


class OneOrMore(argparse.Action):
    """An argument that is its value, or a list where there are several."""

    def __call__(self, parser, namespace, values, option=None):
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


def as_list(values):
    """What `OneOrMore` gave, as a list."""
    return values if isinstance(values, list) else [values]


def one_for_each(option, given, names, default):
    """The values of an option, one for each of one name or several; one value where it is one name.

    Args:
        option: for messages.
        given: a value, a list or None.
        names: a name, or a list.
        default: callable(name), of what is not given.

    Raises:
        ValueError: another number of values than of names.
    """
    listed = as_list(names)
    given = [default(name) for name in listed] if given is None else as_list(given)
    if len(given) != len(listed):
        raise ValueError(
            f"{option} {' '.join(map(str, given))}: {len(given)} for {' '.join(listed)}; expected "
            "one for each"
        )
    return given if len(listed) > 1 else given[0]
