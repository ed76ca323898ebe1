import ast

from benchmarks.harness import scorecard
from benchmarks.harness.scorecard import Module


def module(name, text, room="glmja"):
    return Module(name, room, text)


def test_the_length_of_a_function_leaves_out_its_docstring_and_decorators():
    text = '@cache\ndef f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    return a\n'
    (function,) = module("glmja.a", text).functions
    assert scorecard.function_length(function) == 4


def test_imports_inside_functions_and_of_members_count():
    found = module("glmja.a", "from glmja import b\ndef f():\n    import glmja.c\n").imports
    assert found == {"glmja", "glmja.b", "glmja.c"}


def test_a_cycle_counts_as_one_step_of_the_import_depth():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert scorecard.import_depth(graph) == 3
    assert max(map(len, scorecard.cycles(graph))) == 2


def test_private_and_nested_definitions_need_no_docstring():
    text = "class A:\n    def f(self):\n        def g(): ...\n    def _h(self): ...\ndef _i(): ...\n"
    named = [node.name for node in scorecard.public_definitions(module("m", text)) if not isinstance(node, ast.Module)]
    assert sorted(named) == ["A", "f"]


def test_lines_with_a_mapping_of_anything_count_once_wherever_it_is_nested():
    text = "a: list[dict[str, Any]] | Mapping[str, Any]\nb: dict[str, int]\nc: tuple[dict[str, Any], ...]\n"
    assert scorecard.num_untyped_mappings(module("m", text)) == 2


def test_imports_against_the_table_are_found():
    modules = [
        module("glmja.text.a", "from glmja.files import b\nfrom glmja.errors import E\n", "glmja.text"),
        module("glmja.files.b", "import glmja.text.a\n", "glmja.files"),
        module("glmja.errors", ""),
        module("glmja.fit", "", "glmja"),
        module("glmja.chat", "", "glmja"),
        module("glmja.demo.c", "from glmja import chat, fit\n", "glmja.demo"),
    ]
    table = {"glmja.text": set(), "glmja.files": {"glmja.text"}, "glmja.demo": {"glmja.fit"}}
    assert +scorecard.forbidden_arrows(modules, table) == {"glmja.text": 1, "glmja.demo": 1}
