"""Which recipe a training follows, and what of it was given otherwise, in words."""

# Whose values the options of a training have that are not given.
RECIPES = {"own": "its authors'", "deeppro": "DeepPro's"}


def choose_recipe(detector, name):
    """The options that a recipe sets for a detector, by name; {} where they are DeepPro's.

    Args:
        detector: its class.
        name: a key of `RECIPES`.

    Raises:
        ValueError: the detector cannot be trained.
    """
    if detector.recipe is None:
        raise ValueError(f"{detector.__name__} has no weights to train; test.py tests it as it is")
    return detector.recipe if name == "own" else {}


def recipe_line(model, recipe, options):
    """What a log says of the recipe in use.

    Args:
        model: the name.
        recipe: {option: value} that its authors' recipe sets; {} where DeepPro's is in use.
        options: all of the training, by name.
    """
    if not recipe:
        return "Recipe: DeepPro's, the defaults of train.py"
    values = [
        f"{name} {options[name]}" + ("" if options[name] == value else f" (there: {value})")
        for name, value in recipe.items()
    ]
    return f"Recipe: that of {model}: {', '.join(values)}"
