import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmja.text.aozora import count_aozora, strip_aozora

LEGEND = "-" * 55 + "\n【テキスト中に現れる記号について】\n\n《》：ルビ\n（例）吾輩《わがはい》\n" + "-" * 55 + "\n"


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("主人《あるじ》は書斎《しょさい》に居る。", "主人は書斎に居る。"),
        ("霧の｜ロンドン警視庁《スコットランドヤード》", "霧のロンドン警視庁"),
        ("居る［＃「居る」に傍点］。［＃改ページ］", "居る。"),
        ("［＃「※［＃「火＋主」、U+70B7、49-3］」は底本では「炷」］灯", "灯"),  # a note within a note
        ("※［＃「魚＋師のつくり」、第4水準2-93-37］を煮る", "魳を煮る"),
        ("※［＃「口＋七」、第3水準1-47-52］る", "𠮟る"),
        ("※［＃「火＋主」、U+70B7、49-3］を焚く", "炷を焚く"),
        ("※［＃「一／一」、ページ数-行数］", "※"),  # a character that is in no character set
        ("※［＃「x」、U+D800、1-1］", "※"),
        ("《源氏物語》と《管弦楽のための習作》", "《源氏物語》と《管弦楽のための習作》"),  # titles, no readings
        ("a｜b は、表の｜です", "a｜b は、表の｜です"),
        (f"吾輩は猫である\n夏目漱石\n\n{LEGEND}\n名前はまだ無い。\n\n底本：「夏目漱石全集」\n入力：柴田",
         "吾輩は猫である\n夏目漱石\n\n\n名前はまだ無い。\n\n"),
    ],
)  # fmt: skip
def test_ruby_and_notes_are_stripped_and_the_text_is_kept(text, stripped):
    assert strip_aozora(text) == stripped


def test_readings_and_notes_are_counted():
    assert count_aozora("主人《あるじ》は｜青空文庫《あおぞらぶんこ》［＃「文庫」に傍点］《源氏物語》") == 3
    assert count_aozora("主人は書斎に居る。") == 0


@given(st.text(st.sampled_from("主人あ《》｜［］＃※\n-")))
def test_stripping_ends_and_adds_nothing(text):
    stripped = strip_aozora(text)
    assert len(stripped) <= len(text)
    assert set(stripped) <= set(text)
