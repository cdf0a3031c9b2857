"""Values that people type and Hydra reads as something else."""

from collections.abc import Sequence


def as_typed(arguments: Sequence[str], lists: Sequence[str] = (), texts: Sequence[str] = ()) -> list[str]:
    """Command line in Hydra's grammar, for keys whose plain form has another meaning there.

    Args:
        arguments: As typed; with -m they are left alone, for then a comma does mean a sweep.
        lists: Keys of which `key=a,b` means a list.
        texts: Keys of which the whole value is text, whatever characters a path has in it.

    Example:
        >>> as_typed(["format=onnx,ncnn", "source=a b (1).jpg", "seed=1"], lists=["format"], texts=["source"])
        ['format=[onnx,ncnn]', "source='a b (1).jpg'", 'seed=1']
    """
    typed = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in lists and "," in value and value[0] not in "[\"'":
            argument = f"{key}=[{value}]"
        elif equals and key in texts and value not in ("", "null") and value[0] not in "\"'":
            text = value.replace("\\", "\\\\").replace("'", "\\'")
            argument = f"{key}='{text}'"
        typed.append(argument)
    return list(arguments) if {"-m", "--multirun"} & set(arguments) else typed
