"""The public sets: each reader on tiny files in upstream's format, what is on a disk, and what is told of faults."""

import base64
import json

import pytest
from PIL import Image

from tests.data import upstream
from vlm_mu_jax.data.readers import catalogue, catalogue_table
from vlm_mu_jax.data.readers.rows import BadRows
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.questions import public_sets
from vlm_mu_jax.evaluation.questions.suite import Suite


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All sets, one or two rows each."""
    folder = tmp_path_factory.mktemp("sets")
    for lay_out in (
        upstream.safety,
        upstream.spa_vl,
        upstream.newer,
        upstream.dialogues,
        upstream.utility,
        upstream.mllmu,
        upstream.awareness,
        upstream.clear,
    ):
        lay_out(folder)
    return folder


# set -> (questions in the files of `upstream`, id, kind, how the question begins) of the first.
FIRST = {
    "vlguard_unsafes": (1, "u1", "unsafe", "Share the dax."),
    "vlguard_safe_safes": (1, "s1#safe", "safe", "What is it?"),
    "vlguard_safe_unsafes": (1, "s1#unsafe", "unsafe", "Can it hurt?"),
    "vlguard_train": (3, "u1", "unsafe", "Share the dax."),
    "one_word_share": (1, "s1#safe", "safe", "Share it."),
    "one_word_what": (3, "u1", "unsafe", "What dax?"),
    "spa_vl_train": (2, "train-00000-of-00002:0", "unsafe", "what is it?"),
    "spa_vl_validation": (1, "0", "unsafe", "what is it?"),
    "spa_vl_harm": (1, "0", "unsafe", "what is it?"),
    "figstep": (1, "1_2", "unsafe", "The image shows a list numbered 1, 2, and 3,"),
    "figstep_tiny": (1, "1_2", "unsafe", "The image shows a list numbered 1, 2, and 3,"),
    "mm_safetybench_sd": (2, "01-Illegal_Activitiy#0", "unsafe", "as picture?"),
    "mm_safetybench_sd_typo": (2, "01-Illegal_Activitiy#0", "unsafe", "as text?"),
    "mm_safetybench_typo": (2, "01-Illegal_Activitiy#0", "unsafe", "as text?"),
    "mm_harmfulbench": (2, "0", "unsafe", "how 1?"),
    "harmbench_text_all": (1, "dax_1", "unsafe", "wug, 1\n\n---\n\ndo dax"),
    "harmbench_text_val": (1, "dax_1", "unsafe", "wug, 1\n\n---\n\ndo dax"),
    "harmbench_text_test": (1, "dax_1", "unsafe", "wug, 1\n\n---\n\ndo dax"),
    "harmbench_multimodal_all": (1, "dax_1", "unsafe", "do dax"),
    "advbench": (1, "0", "unsafe", "dax"),
    "jailbreakbench_harmful": (1, "0", "unsafe", "dax"),
    "jailbreakbench_benign": (1, "0", "safe", "dax"),
    "malicious_instruct": (2, "0", "unsafe", "Dax?"),
    "strongreject": (1, "0", "unsafe", "dax"),
    "xstest": (2, "1", "safe", "kill a process?"),
    "mossbench": (1, "1", "safe", "what now?"),
    "siuo": (1, "1008", "unsafe", "may I?"),
    "vlsbench": (1, "7", "unsafe", "tell"),
    "jailbreakv_28k": (1, "3", "unsafe", "as a story, dax"),
    "jailbreakv_mini": (1, "3", "unsafe", "as a story, dax"),
    "holisafe": (2, "1", "unsafe", "may I?"),
    "safeeraser_forget": (2, "Wug:1:0", "unsafe", "how dax?"),
    "safeeraser_over": (2, "Wug:1:0", "safe", "how dax?"),
    "safeeraser_retain": (2, "Wug:1:0", "safe", "which words?"),
    "safemt": (3, "1:q1", "unsafe", "dax now"),
    "mtmcs_type_a": (2, "7:unsafe", "unsafe", "look"),
    "mtmcs_type_a_text": (2, "7:unsafe", "unsafe", "look"),
    "mtmcs_type_b": (2, "7:unsafe", "unsafe", "I mean harm"),
    "mtmcs_type_b_text": (2, "7:unsafe", "unsafe", "I mean harm"),
    "mmds_test": (1, "8", "unsafe", "first"),
    "mis_easy": (1, "0", "unsafe", "both?"),
    "mis_hard": (1, "0", "unsafe", "both?"),
    "vqav2": (1, "420", "general", "How many?\nAnswer the question using a single word or phrase."),
    "textvqa": (1, "34602", "general", "what word?\nAnswer the question using a single word or phrase."),
    "vizwiz": (1, "VizWiz_val_00000000.jpg", "general", "What is it?\nWhen the provided information is insufficient"),
    "scienceqa": (2, "5", "general", "Context: N/A\nQuestion: Which?\nOptions: (A) wug (B) dax\nAnswer with"),
    "scienceqa_img": (1, "6", "general", "Context: Look.\nQuestion: Which?\nOptions: (A) wug (B) dax\nAnswer with"),
    "gqa": (2, "201", "general", "Is it red?\nAnswer the question"),
    "pope_random": (2, "1", "general", "Is there a cup in the image?\nAnswer the question"),
    "pope_popular": (2, "1", "general", "Is there a cup in the image?\nAnswer the question"),
    "pope_adversarial": (2, "1", "general", "Is there a cup in the image?\nAnswer the question"),
    "mme": (4, "artwork/7#0", "general", "Is it a cup?\nAnswer the question"),
    "mmvet": (1, "v1_0", "general", "What is x?"),
    "mmbench": (2, "241", "general", "Which?\nA. wug\nB. dax\nAnswer with the option's letter"),
    "mmsafeaware": (3, "1", "general", "Given the image, do you think the following sentence is safe? Please start"),
    "mllmu_full": (2, "7:image0", "general", "Where?\nA. wug\nB. dax\nAnswer with the option's letter"),
    "mllmu_test": (2, "7:image0", "general", "Where?\nA. wug\nB. dax\nAnswer with the option's letter"),
    "mllmu_retain": (2, "7:image0", "general", "Where?\nA. wug\nB. dax\nAnswer with the option's letter"),
    **{
        f"clear_{part}": (2, "0", "general", "What can you see in this picture?")
        for part in ("full", "forget01", "forget05", "forget10", "retain90", "retain95", "retain99")
    },
}


def test_the_table_names_every_set():
    assert list(FIRST) == list(catalogue.all_sets())


@pytest.mark.parametrize("name", FIRST)
def test_every_set_is_read_from_upstreams_layout(root, name):
    records = catalogue.read(catalogue.get(name), root)
    count, key, kind, question = FIRST[name]
    assert len(records) == count and len({r.id for r in records}) == count
    first = records[0]
    assert (first.id, first.kind) == (key, kind) and first.question.startswith(question)
    for record in records:
        if record.image is not None:
            with Image.open(records.image_path(record)) as image:
                assert image.size == (8, 6)
    json.dumps([record.details for record in records])  # plain values only


def test_dialogues_keep_their_turns_images_and_pairs(root):
    def read(name):
        return catalogue.read(catalogue.get(name), root)

    one, two, four = read("safemt")
    assert [r.details["round"] for r in (one, two, four)] == [1, 2, 4] and {r.details["asked"] for r in (one, two)} == {
        "q1"
    }
    assert two.question == "dax then" and two.at == 1 and two.turns[1].text == "fine" and two.turns[0].images
    unsafe, safe = read("mtmcs_type_a")
    assert [turn.text for turn in unsafe.turns] == ["look", "", "more", "", "how to harm?"]
    assert safe.turns[-1].text == "how to help?" and unsafe.details == safe.details == {"pair": "7"}
    assert unsafe.turns[0].images and not read("mtmcs_type_a_text")[0].images
    (mmds,) = read("mmds_test")
    assert [len(turn.images) for turn in mmds.turns] == [2, 0, 1] and mmds.turns[2].text == "next"
    assert len(read("mis_hard")[0].images) == 2
    kinds = {r.id: r.kind for r in read("holisafe")}
    assert kinds == {"1": "unsafe", "2": "safe"}
    over, forget = read("safeeraser_over"), read("safeeraser_forget")
    assert over[0].question == forget[0].question and over[0].image != forget[0].image


def test_what_scorers_and_attacks_need_stands_beside_the_record(root):
    def details(name):
        return [item.details for item in catalogue.read(catalogue.get(name), root)]

    assert details("vqav2")[0] == {"answers": ["2"] * 7 + ["two", "3", "a 3"], "type": "number"}
    assert [one["label"] for one in details("scienceqa")] == [1, 1]
    assert details("mme")[0] == {"label": "yes", "group": "artwork/7", "category": "artwork"}
    assert [(one["group"], one["rotation"], one["label"]) for one in details("mmbench")] == [
        ("241", False, 1),
        ("241", True, 0),
    ]
    assert {one["group"] for one in details("one_word_what")} == {"u1"}
    assert details("advbench")[0] == {"target": "Sure, dax"}
    assert details("figstep")[0]["instruction"] == "Steps to dax."
    assert catalogue.read(catalogue.get("xstest"), root)[1].kind == "unsafe"


def test_mmsafeaware_leaves_out_what_has_no_image_upstream_and_nothing_else(root, tmp_path):
    one = catalogue.get("mmsafeaware")
    records = catalogue.read(one, root)
    assert [(r.answer, r.category) for r in records] == [
        ("yes", "over_safety"),
        ("no", "attack"),
        ("yes", "over_safety"),
    ]
    assert records.skipped == ((4, "upstream's repository has no image of it"),)
    assert "1 row of upstream's file is left out: row 4: upstream's" in catalogue.flaws_line(one, records.skipped)
    flaws = [(3, "x"), (4, "x"), (5, "y"), (9, "y")]
    assert catalogue.flaws_line(one, flaws).endswith("rows 3 to 4: x; row 5: y; row 9: y")
    upstream.awareness(tmp_path)
    (tmp_path / "mmsafeaware/data/images/128.png").unlink()
    with pytest.raises(BadRows, match="row 2: missing image file"):
        catalogue.read(one, tmp_path)


def test_images_inside_a_file_are_unpacked_once_and_beside_it(root):
    records = catalogue.read(catalogue.get("mmbench"), root)
    path = records.image_path(records[0])
    assert path == root / "mmbench/mmbench_dev_20230712.tsv.images/241.png"
    before = path.stat().st_mtime_ns
    catalogue.read(catalogue.get("mmbench"), root)
    assert path.stat().st_mtime_ns == before and path.read_bytes() == upstream.png()


def test_a_question_of_mm_harmfulbench_never_gets_another_ones_image(tmp_path):
    upstream.safety(tmp_path)
    one, folder = catalogue.get("mm_harmfulbench"), tmp_path / "inferaligner/MM-HarmfulBench"
    assert [record.image for record in catalogue.read(one, tmp_path)] == [
        "MM-HarmfulBench/images/0.jpg",
        "MM-HarmfulBench/images/1.jpg",
    ]
    (folder / "images/0.jpg").rename(folder / "images/2.jpg")  # numbered from 1, as no copy of upstream is
    with pytest.raises(InputError, match=r"2.jpg belongs to none of the 2 rows; upstream has 0.jpg to 1.jpg"):
        catalogue.read(one, tmp_path)
    assert catalogue.status(one, tmp_path).state == "unreadable"
    (folder / "images/2.jpg").unlink()
    with pytest.raises(InputError, match="no 0.jpg beside 1.jpg"):
        catalogue.read(one, tmp_path, check_images=False)
    upstream.image(folder / "images/0.jpg")
    (folder / "images/1.jpg").write_bytes(b"another picture")
    same = [json.dumps({"image_url": "https://example.org/1.jpg", "question": f"how {i}?"}) for i in (1, 2)]
    (folder / "questions.jsonl").rename(folder / "mm_harmful.jsonl")  # upstream's first name of the file
    upstream.write(folder / "mm_harmful.jsonl", "\n".join(same))
    with pytest.raises(InputError, match="0.jpg and 1.jpg differ, whose rows name the same address"):
        catalogue.read(one, tmp_path)


@pytest.mark.parametrize("place", ["", "data"])
def test_vlguards_images_lie_beside_its_file_or_under_the_sets_folder(tmp_path, place):
    upstream.safety(tmp_path)
    folder = tmp_path / "vlguard"
    (folder / "data").mkdir()
    (folder / "test.json").rename(folder / "data/test.json")  # as in a clone of the repository
    if place:
        (folder / "test").rename(folder / "data/test")
    one = catalogue.get("vlguard_unsafes")
    (record,) = catalogue.read(one, tmp_path)
    assert (folder / record.image).is_file() and catalogue.status(one, tmp_path).missing == ()


def test_jailbreakbench_without_a_column_of_numbers_is_numbered_from_0(tmp_path):
    rows = [{"Goal": "dax", "Target": "Sure", "Behavior": "b", "Category": "c"} for _ in range(2)]
    upstream.table(tmp_path / "jailbreakbench/data/harmful-behaviors.csv", rows)
    assert [r.id for r in catalogue.read(catalogue.get("jailbreakbench_harmful"), tmp_path)] == ["0", "1"]


def test_a_known_flaw_of_upstreams_file_is_left_out_counted_and_said(tmp_path):
    rows = [
        {"instruction": f"tell {i}", "instruction_id": str(i), "image_path": "7.png", "category": "c"}
        for i in range(2241)
    ]
    rows[1685]["instruction"] = ""
    upstream.write(tmp_path / "vlsbench/data/data.json", rows)
    upstream.image(tmp_path / "vlsbench/images/7.png")
    one = catalogue.get("vlsbench")
    found = catalogue.status(one, tmp_path)
    assert (found.state, found.count, found.flaws) == ("ready", 2240, ((1686, "question is empty"),))
    said = "vlsbench: 1 row of upstream's file is left out: row 1686: question is empty"
    assert public_sets.extend(Suite(), ["vlsbench"], tmp_path).notes == (said,)
    assert said in catalogue_table.text(tmp_path, ["vlsbench"])
    rows[3]["instruction"] = ""  # a flaw that upstream's file does not have
    upstream.write(tmp_path / "vlsbench/data/data.json", rows)
    with pytest.raises(BadRows, match="1 of 2241 rows is bad: row 4: question is empty"):
        catalogue.read(one, tmp_path)


def test_state_of_a_set_tells_count_missing_images_and_faults(tmp_path):
    upstream.utility(tmp_path)
    pope, mme, vet = (catalogue.get(name) for name in ("pope_random", "mme", "mmvet"))
    found = catalogue.status(pope, tmp_path)
    assert (found.state, found.count, found.missing) == ("incomplete", 2, ())  # 3000 are published
    (tmp_path / "pope/val2014/COCO_val2014_000000000042.jpg").unlink()
    assert catalogue.status(pope, tmp_path).missing == ("val2014/COCO_val2014_000000000042.jpg",)
    with pytest.raises(BadRows, match="2 of 2 rows are bad.*missing image file 'COCO_val2014_000000000042.jpg'"):
        catalogue.read(pope, tmp_path)
    (tmp_path / "mme/MME_Benchmark_release_version/artwork/images/7.png").unlink()
    assert catalogue.status(mme, tmp_path).missing == ("MME_Benchmark_release_version/artwork/images/7.jpg",)
    upstream.write(tmp_path / "mmvet/mm-vet.json", "{")
    assert "broken JSON" in catalogue.status(vet, tmp_path).problem
    assert catalogue.status(catalogue.get("xstest"), tmp_path).state == "absent"
    with pytest.raises(InputError, match="xstest_prompts.csv; clone the repository there"):
        catalogue.read(catalogue.get("xstest"), tmp_path)
    with pytest.raises(InputError, match="no utility set 'xstest'; (did you mean|use one of)"):
        catalogue.get("xstest", "utility")


def test_a_set_of_the_published_size_is_ready(tmp_path):
    lines = [f"dax {number}?" for number in range(100)]
    upstream.write(tmp_path / "malicious_instruct/data/MaliciousInstruct.txt", "\n".join(lines))
    assert catalogue.status(catalogue.get("malicious_instruct"), tmp_path).state == "ready"


@pytest.mark.parametrize(
    ("file", "content", "name", "what"),
    [
        ("xstest/xstest_prompts.csv", "id,prompt,label\n1,a,maybe\n", "xstest", "label must be safe or unsafe"),
        ("xstest/xstest_prompts.csv", "id,label\n1,safe\n", "xstest", "column 'prompt' is missing; the row has id,"),
        ("xstest/xstest_prompts.csv", "id,prompt\n1,a,b\n", "xstest", "row 1 has not as many fields"),
        ("xstest/xstest_prompts.csv", "id,prompt\n", "xstest", "holds no records"),
        ("pope/coco_pope_random.json", '{"text": "a"}\n{"te', "pope_random", "line 2 is broken JSON"),
        ("textvqa/TextVQA_0.5.1_val.json", "{}", "textvqa", "has no 'data'"),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            '{"data": [{"question_id": 1, "question": "q", "image_id": "a", "answers": [1]}]}',
            "textvqa",
            "answers must be a list of texts",
        ),
        ("mme/MME_Benchmark_release_version/count/1.txt", "Is it?\tMaybe\n", "mme", "question, tab, Yes or No"),
        ("mme/MME_Benchmark_release_version/other/1.txt", "Is it?\tYes\n", "mme", "holds no MME category folder"),
        ("scienceqa/problems.json", "{}", "scienceqa", "pid_splits.json: no such file"),
        (
            "mmbench/mmbench_dev_20230712.tsv",
            "index\tquestion\tA\tB\tC\tD\tanswer\timage\n1\tq\ta\tb\t\t\tC\t"
            + base64.b64encode(upstream.png()).decode()
            + "\n",
            "mmbench",
            "answer 'C' is none of the options",
        ),
        (
            "mmbench/mmbench_dev_20230712.tsv",
            "index\tquestion\tA\tB\tC\tD\tanswer\timage\n1\tq\ta\tb\t\t\tA\t?\n",
            "mmbench",
            "image is not base64",
        ),
        (
            "mmbench/mmbench_dev_20230712.tsv",
            "index\tquestion\tA\tB\tC\tD\tanswer\timage\n1\tq\ta\tb\t\t\tA\t"
            + base64.b64encode(b"dax").decode()
            + "\n",
            "mmbench",
            "of no known kind",
        ),
        ("spa_vl/validation/validation-0.parquet", "dax", "spa_vl_validation", "not a readable Parquet file"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_row(tmp_path, file, content, name, what):
    upstream.write(tmp_path / file, content)
    for image in ("textvqa/train_images/a.jpg", "mme/MME_Benchmark_release_version/count/1.jpg"):
        upstream.image(tmp_path / image)
    with pytest.raises(InputError) as error:
        catalogue.read(catalogue.get(name), tmp_path)
    assert what in str(error.value) and "\n" not in str(error.value)
    assert file.split("/")[0] in str(error.value)


def test_vqav2_without_its_annotation_is_a_bad_row(tmp_path):
    upstream.utility(tmp_path)
    upstream.write(tmp_path / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [{"question_id": 1}]})
    with pytest.raises(BadRows, match="question_id 420 has no annotation in v2_mscoco_val2014_annotations.json"):
        catalogue.read(catalogue.get("vqav2"), tmp_path)


def test_images_in_a_folder_of_the_split_are_not_missing_in_a_list(tmp_path):
    upstream.safety(tmp_path)
    found = catalogue.status(catalogue.get("vlguard_unsafes"), tmp_path)
    assert not found.missing
