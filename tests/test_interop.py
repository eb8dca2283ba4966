"""A set in other libraries: the same numbers as theirs, no more in memory than they need, and back to embeddings."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from scipy.stats import ttest_ind
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.errors import CorruptStoreError, InvalidInputError, MissingDependencyError, OutOfRangeError, TooLargeError
from saestore.sparse_rows import SparseRows

CASE = make_case(41, 60, 14, density=0.3, palette="signed", segment_rows=25)


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    return write_segments(saestore.open(tmp_path_factory.mktemp("i") / "segments.zarr", "a"), CASE)


# --- points


@settings(max_examples=12)
@given(cases(), st.data())
def test_points_are_numpys(case, data):
    acts = write_segments(scratch_store(), case)
    n, m = case.dense.shape
    pairs = data.draw(st.lists(st.tuples(st.integers(-n, n - 1), st.integers(-m, m - 1)), max_size=20))
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    found = acts.vindex(rows, columns)
    assert found.dtype == case.dense.dtype
    assert np.array_equal(found, case.dense[rows, columns])


def test_many_points_are_looked_for_in_blocks(acts, monkeypatch):
    monkeypatch.setattr("saestore.query.slices._BLOCK", 7)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(-60, 60, 100), rng.integers(-14, 14, 100)
    assert np.array_equal(acts.vindex(rows, columns), CASE.dense[rows, columns])


def test_points_take_one_of_either_and_refuse_what_are_no_pairs(acts):
    assert np.array_equal(acts.vindex(7, [0, 3, 3]), CASE.dense[7, [0, 3, 3]])
    assert np.array_equal(acts.vindex([1, 2], 5), CASE.dense[[1, 2], 5])
    assert acts.vindex([], []).shape == (0,)
    with raises(InvalidInputError, "not-pairs", "2 samples", "3 features"):
        acts.vindex([1, 2], [1, 2, 3])
    with pytest.raises(OutOfRangeError):
        acts.vindex([60], [0])


# --- tables in pandas and Arrow


def tables(acts):
    feature = int(np.argmax(np.count_nonzero(CASE.dense, axis=0)))
    return [acts.top_samples([feature, 1], 7), acts.top_features([3, 4], 5), acts.histogram(feature), acts.feature(1)]


def test_every_table_is_the_same_in_pandas_and_in_arrow(acts):
    pytest.importorskip("pyarrow")
    for table in tables(acts):
        arrow, frame = table.to_arrow(), table.to_pandas()
        names = list(table.columns)
        assert arrow.column_names == list(frame.columns)  # with keys beside the numbers
        assert arrow.column_names[: len(names)] == names
        assert arrow.num_rows == len(table) > 0
        assert arrow.to_pylist() == frame.to_dict("records")
        assert arrow.select(names).to_pylist() == list(table)
        for name, values in table.columns.items():
            assert arrow[name].to_numpy().dtype == values.dtype


def test_arrow_that_is_missing_names_the_extra(acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with raises(MissingDependencyError, "missing-dependency", "saestore[arrow]"):
        acts.top_samples(1).to_arrow()


# --- anndata


def test_anndata_has_activations_labels_and_statistics(acts):
    pytest.importorskip("anndata")
    store = scratch_store()
    whole = write_case(store, CASE)
    whole.concepts.add({"bright": np.arange(60) % 7 == 0}, level="sample")
    for activations in (whole, acts):
        adata = activations.to_anndata()
        assert adata.shape == CASE.dense.shape
        assert np.array_equal(adata.X.toarray(), CASE.dense)
        adata.X.tocoo()  # with ids that scipy has
        assert adata.obs["item"].tolist() == CASE.item_of_sample.tolist()
        assert adata.obs["split"].tolist() == np.array(CASE.items["split"])[CASE.item_of_sample].tolist()
        assert adata.obs["key"].tolist() == np.array(CASE.items["image_path"])[CASE.item_of_sample].tolist()
        assert (adata.obs["color::red"] == "true").tolist() == CASE.red[CASE.item_of_sample].tolist()
        assert np.array_equal(adata.var["n_active"], np.count_nonzero(CASE.dense, axis=0))
        assert adata.uns["saestore"]["path"] == PATH
        assert adata.obs_names.tolist() == [str(i) for i in range(60)]
    bright = whole.to_anndata().obs["bright"]
    assert bright.cat.categories.tolist() == ["false", "true"]
    assert (bright == "true").tolist() == (np.arange(60) % 7 == 0).tolist()
    ages = [None, *range(1, whole.n_items)]
    whole.items.set("made/by", [f"cam {i % 2}" for i in range(whole.n_items)])
    whole.items.set("age", ages, unknown=[True] + [False] * (whole.n_items - 1))
    whole.samples.set("age", np.arange(60) * 2)
    obs = whole.to_anndata().obs
    assert obs["made|by"].astype(str).tolist() == [f"cam {i % 2}" for i in CASE.item_of_sample]
    assert obs["age"].fillna(-1).tolist() == [ages[i] or -1 for i in CASE.item_of_sample]
    assert obs["sample.age"].tolist() == list(range(0, 120, 2))
    whole.concepts.add({"half": np.ma.array(np.arange(60) < 30, mask=np.arange(60) == 3)}, level="sample")
    assert np.flatnonzero(whole.to_anndata().obs["half"].isna()).tolist() == [3]


# anndata asks pandas 3 for options that it no longer has.
@pytest.mark.filterwarnings("ignore:invalid value encountered in log2")  # of negative activations, by scanpy
def test_scanpy_ranks_features_between_labels_as_it_comes():
    """Welch's t as scipy has it."""
    scanpy = pytest.importorskip("scanpy", exc_type=ImportError)
    adata = write_case(scratch_store(), CASE).to_anndata()
    scanpy.tl.rank_genes_groups(adata, "color::red", groups=["true"], reference="rest", method="t-test")
    found = adata.uns["rank_genes_groups"]
    order = found["names"]["true"].astype(int)
    red = CASE.red[CASE.item_of_sample]
    expected = ttest_ind(CASE.dense[red], CASE.dense[~red], equal_var=False).statistic[order]
    usable = np.isfinite(expected)
    np.testing.assert_allclose(found["scores"]["true"][usable], expected[usable], rtol=1e-4)


options_of_pandas = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")


@options_of_pandas
def test_anndata_of_one_segment_reads_what_is_sliced():
    pytest.importorskip("anndata")
    from test_requests import CountingStore

    case = make_case(7, 4000, 30, density=0.3, segment_rows=4000, chunk=256, shard=1 << 22)
    store = CountingStore()
    acts = write_case(saestore.open(store, "a"), case)
    store.taken()
    adata = acts.to_anndata(backed=True)
    assert not any("/by_sample/data/c/" in key for key, _ in store.taken())
    assert not isinstance(adata.X, sp.sparray | sp.spmatrix)
    assert np.array_equal(adata[1000:1100].to_memory().X.toarray(), case.dense[1000:1100])
    read = sum(n for key, n in store.taken() if "/by_sample/" in key)
    stored = sum(len(v) for k, v in store._store_dict.items() if "/by_sample/" in k and "/c/" in k)
    assert read < stored / 3
    selected = adata[adata.obs["split"] == "test"]
    mask = (np.array(case.items["split"]) == "test")[case.item_of_sample]
    assert np.array_equal(selected.to_memory().X.toarray(), case.dense[mask])
    whole = adata.to_memory().X
    assert whole.indices.dtype == np.int32  # which scanpy needs; on disk they are uint16
    assert np.array_equal(whole.tocsc().toarray(), case.dense)


def test_anndata_of_float16_and_within_the_limit(acts):
    pytest.importorskip("anndata")
    half = make_case(3, 30, 8, dtype="float16")
    adata = write_case(scratch_store(), half).to_anndata()
    assert np.array_equal(adata.X.toarray(), half.dense.astype(np.float32))
    with raises(InvalidInputError, "cannot-be-backed", "float16"):
        write_case(scratch_store(), half).to_anndata(backed=True)
    with pytest.raises(TooLargeError):
        acts.to_anndata(max_bytes=10)


@options_of_pandas
def test_anndata_can_be_written_and_read_back(tmp_path):
    anndata = pytest.importorskip("anndata")
    adata = write_case(scratch_store(), CASE).to_anndata()
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(back.X.toarray(), CASE.dense)
    assert back.uns["saestore"]["path"] == PATH


def test_anndata_that_is_missing_names_the_extra(acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with raises(MissingDependencyError, "missing-dependency", "saestore[anndata]"):
        acts.to_anndata()


# --- torch


def test_torch_tensors_are_the_sparse_slices(acts):
    torch = pytest.importorskip("torch")
    half = write_case(scratch_store(), make_case(3, 30, 8, dtype="float16"))
    wide = write_case(scratch_store(), make_case(3, 30, 8, dtype="float64"))
    for activations in (acts, half, wide):
        for samples, features in ((None, None), (slice(3, 20), [5, 1]), ([9, 2, 2], None), ([], None), (4, 5)):
            tensor, expected = activations.torch(samples, features), activations.sparse(samples, features)
            assert tensor.layout == torch.sparse_csr
            assert tuple(tensor.shape) == expected.shape
            assert tensor.values().numpy().dtype == expected.dtype
            assert np.array_equal(tensor.to_dense().numpy(), expected.toarray())
    weights = torch.ones(14, 3)
    assert torch.allclose(acts.torch() @ weights, torch.from_numpy(CASE.dense) @ weights, atol=1e-5)


def epoch(dataset, **loader):
    from torch.utils.data import DataLoader

    return list(DataLoader(dataset, batch_size=None, **loader))


def assert_batches(batches, dense, batch_size, rows):
    samples = [batch.samples.tolist() for batch in batches]
    assert sorted(len(part) for part in samples)[1:] == [batch_size] * (len(samples) - 1)
    assert sorted(itertools.chain(*samples)) == sorted(rows)
    for batch in batches:
        assert np.array_equal(batch.values.to_dense().numpy(), dense[batch.samples.numpy()])


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_every_row_once_whatever_the_workers(acts, sparse, workers):
    torch = pytest.importorskip("torch")
    for shuffle in (False, True):
        dataset = acts.torch_dataset(7, shuffle=shuffle, sparse=sparse, block_rows=5, buffer_rows=16)
        batches = epoch(dataset, num_workers=workers)
        assert_batches(batches, CASE.dense, 7, range(60))
        assert len(batches) == len(dataset) == 9
        assert repr(dataset) == f"<batches of {PATH}: 60 rows in 9 of 7>"
        assert {batch.values.layout for batch in batches} == {torch.sparse_csr if sparse else torch.strided}
        if not shuffle and not workers:
            assert torch.cat([batch.samples for batch in batches]).tolist() == list(range(60))


def test_shuffling_is_by_seed_and_epoch_and_not_by_workers(acts):
    pytest.importorskip("torch")

    def order(seed, epoch_number, workers=0):
        dataset = acts.torch_dataset(6, shuffle=True, seed=seed, block_rows=5, buffer_rows=12)
        dataset.set_epoch(epoch_number)
        return [batch.samples.tolist() for batch in epoch(dataset, num_workers=workers)]

    first = order(0, 0)
    assert order(0, 0) == first
    assert sorted(order(0, 0, workers=2)) == sorted(first)
    orders = [first, order(0, 1), order(1, 0), order(0, 2)]
    assert len({str(o) for o in orders}) == 4
    flat = [s for part in first for s in part]
    assert flat != sorted(flat)
    # Rows are mixed within buffers of two blocks' length, which are pieces of three blocks at most.
    for start in range(0, 60, 12):
        assert len({s // 5 for s in flat[start : start + 12]}) <= 4


@settings(max_examples=25)
@given(
    st.integers(1, 70), st.tuples(st.integers(1, 70), st.integers(1, 70), st.booleans()), st.booleans(),
    st.none() | st.lists(st.integers(-60, 59), max_size=30),
)  # fmt: skip
def test_batches_of_any_size_have_every_row_once(acts, batch_size, buffers, shuffle, samples):
    pytest.importorskip("torch")
    block, buffer, threads = buffers
    dataset = acts.torch_dataset(
        batch_size, samples=samples, features=[3, 0], shuffle=shuffle, block_rows=block, buffer_rows=buffer
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saestore.interop.torch_data._WORTH_THREADS", 0 if threads else 1 << 18)
        batches = list(dataset)
    rows = list(range(60)) if samples is None else [s % 60 for s in samples]
    assert len(batches) == len(dataset) == -(-len(rows) // batch_size)
    if rows:
        assert_batches(batches, CASE.dense[:, [3, 0]], batch_size, rows)
    if not shuffle:
        assert [s for batch in batches for s in batch.samples.tolist()] == rows


def test_mixing_copies_no_blocks_of_whole_chunks_and_damaged_ids_are_told(acts, monkeypatch):
    pytest.importorskip("torch")
    from saestore.storage.reader import _cut

    block = np.arange(40)
    cut = _cut(block, np.array([8, 16, 24]), np.array([8, 8, 16]))
    assert cut.base is block
    assert cut.tolist() == list(range(8, 40))
    assert _cut(block, np.array([8, 17]), np.array([8, 2])).tolist() == [*range(8, 16), 17, 18]
    rows = SparseRows(np.array([0, 1]), np.array([CASE.dense.shape[1]]), np.ones(1, np.float32))
    monkeypatch.setattr("saestore.interop.torch_data._whole_rows", lambda *_: rows)
    with raises(CorruptStoreError, "corrupt-store", 14):
        list(acts.torch_dataset(1))


def test_batches_read_a_buffer_at_a_time(monkeypatch):
    pytest.importorskip("torch")
    from test_requests import CountingStore

    monkeypatch.setattr("saestore.storage.reader._GAP", 0)  # else what lies between pieces comes along, all of it here

    case = make_case(7, 4000, 30, density=0.3, segment_rows=4000, chunk=64, shard=1 << 22)
    store = CountingStore()
    acts = write_case(saestore.open(store, "a"), case)
    dataset = acts.torch_dataset(100, shuffle=True, block_rows=100, buffer_rows=400)
    acts.sparse([0])  # what is known of the shards then
    store.taken()
    next(iter(dataset))
    stored = sum(len(v) for k, v in store._store_dict.items() if "/by_sample/" in k and "/c/" in k)
    # One buffer of ten is handed out, and the next one is read meanwhile.
    assert 0 < sum(n for _, n in store.taken()) < stored / 3


def test_the_mixing_of_batches_is_the_entropy_of_their_items():
    pytest.importorskip("torch")
    from scipy.stats import entropy

    matrix = np.arange(1, 481, dtype=np.float32).reshape(60, 8)
    store = saestore.open(MemoryStore(), "a")
    acts = store.write(PATH, sp.csr_array(matrix), np.arange(0, 61, 6))
    dataset = acts.torch_dataset(10, shuffle=True, block_rows=12, buffer_rows=20)
    dataset.set_epoch(1)
    samples = [batch.samples.numpy() for batch in dataset]
    of_batches = [entropy(np.unique(rows // 6, return_counts=True)[1], base=2) for rows in samples]
    mixed, best = dataset.item_entropy()
    assert mixed == pytest.approx(np.mean(of_batches))
    assert mixed < best <= np.log2(10)
    in_order, _ = acts.torch_dataset(12).item_entropy()
    assert in_order == pytest.approx(1)  # two whole items in each batch


def test_batches_go_to_workers_that_share_no_memory(tmp_path, forkserver):
    pytest.importorskip("torch")
    acts = write_case(saestore.open(tmp_path / "a.zarr", "a"), CASE)
    batches = epoch(acts.torch_dataset(16, shuffle=True), num_workers=1, multiprocessing_context=forkserver)
    assert_batches(batches, CASE.dense, 16, range(60))


def test_batches_go_to_a_device(acts, monkeypatch):
    torch = pytest.importorskip("torch")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device, sparse in itertools.product(devices, (True, False)):
        batches = list(acts.torch_dataset(16, shuffle=True, sparse=sparse, device=device))
        assert {part.device.type for batch in batches for part in batch} == {device}
        assert_batches([type(batch)(*(part.cpu() for part in batch)) for batch in batches], CASE.dense, 16, range(60))
    with raises(InvalidInputError, "unusable-device", "cuda:99"):
        acts.torch_dataset(device="cuda:99")
    monkeypatch.setattr("saestore.interop.torch_data.get_worker_info", lambda: torch)  # as in a worker
    with raises(InvalidInputError, "device-in-worker", "pin_memory=True"):
        next(iter(acts.torch_dataset(16, device="cpu")))


def test_bad_batches_are_told(acts):
    pytest.importorskip("torch")
    for name in ("batch_size", "block_rows", "buffer_rows"):
        with raises(InvalidInputError, "too-small", f"{name}=0"):
            acts.torch_dataset(**{name: 0})
    with raises(TooLargeError, "too-large", "batch_size"):
        acts.torch_dataset(10**9, sparse=False)
    with pytest.raises(OutOfRangeError):
        acts.torch_dataset(samples=[60])


def test_torch_that_is_missing_names_the_extra(acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for ask in (acts.torch, acts.torch_dataset):
        with raises(MissingDependencyError, "missing-dependency", "saestore[torch]"):
            ask()
    with raises(MissingDependencyError, "missing-dependency", "saestore[sae]"):
        acts.decode(3)


def test_what_needs_no_torch_imports_none(tmp_path):
    write_case(saestore.open(tmp_path / "a.zarr", "a"), CASE)
    code = f"""
import sys, saestore
acts = saestore.open({str(tmp_path / "a.zarr")!r})["sae"]
acts.to_xarray().sae.top(3); acts.vindex(1, 2)
print(*{{"torch", "anndata", "matplotlib", "sae_lens"}} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


# --- decode


def test_decoding_is_the_saes_own_decode(example_store, project_dir, monkeypatch):
    lens = pytest.importorskip("sae_lens")
    import torch

    monkeypatch.chdir(project_dir)  # from where the store says that its SAEs come
    store = saestore.open(example_store)
    for name, folder in (("CLEVR", "clevr"), ("iSarcasm", "isarcasm")):
        acts = store[name]
        sae = lens.SAE.load_from_disk(project_dir / "examples" / folder / "sae")
        samples = [5, 900, 17, 17]
        with torch.inference_mode():
            expected = sae.decode(torch.from_numpy(acts.dense(samples))).numpy()
        for given_sae in (sae, project_dir / "examples" / folder / "sae"):
            found = acts.decode(samples, given_sae)
            assert found.dtype == np.float32
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert np.allclose(acts.decode(900), expected[1], rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        embeddings = np.load(project_dir / "examples" / folder / "embeddings.npy").astype(np.float32)
        whole = acts.decode()
        explained = 1 - np.square(embeddings - whole).sum() / np.square(embeddings - embeddings.mean(axis=0)).sum()
        assert explained > 0.6
    with raises(InvalidInputError, "wrong-sae", "features"):
        store["CLEVR"].decode(3, project_dir / "examples" / "isarcasm" / "sae")
    with raises(TooLargeError, "too-large", "fewer samples"):
        store["CLEVR"].decode(sae=project_dir / "examples" / "clevr" / "sae", max_bytes=1000)


def clip_scope(folder, seed=0):
    import torch

    generator = torch.Generator().manual_seed(seed)
    path = folder / f"{seed}.pt"
    weights = {"pre_b": (6,), "enc": (6, 14), "dec": (14, 6)}
    state = {name: torch.randn(*shape, generator=generator) for name, shape in weights.items()}
    torch.save({"k": 3, "n_features": 14, "d_in": 6, "model_state_dict": state}, path)
    return path, state


def test_decoding_a_clip_scope_sae_in_batches(acts, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    path, state = clip_scope(tmp_path)
    expected = CASE.dense @ state["dec"].numpy() + state["pre_b"].numpy()
    monkeypatch.setattr("saestore.interop.decoding._BATCH", 20)  # some four rows
    assert np.allclose(acts.decode(sae=path), expected, atol=1e-5)
    assert np.allclose(acts.decode(slice(None, None, -7), path), expected[::-7], atol=1e-5)
    assert acts.decode([], path).shape == (0, 6)
    with raises(InvalidInputError, "unknown-sae", acts.path):
        acts.decode(3)


def test_another_sae_than_the_sets_is_refused(tmp_path):
    pytest.importorskip("torch")
    (path, _), (other, _) = clip_scope(tmp_path), clip_scope(tmp_path, 1)
    embeddings = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match="variance"):  # of random embeddings an SAE of random weights explains none
        saestore.build(
            "Toy", store=tmp_path / "s.zarr", sample_type="patch", embeddings=embeddings, sae=path, progress=False
        )
    acts = saestore.open(tmp_path / "s.zarr")["Toy"]
    assert acts.decode().shape == (20, 6)  # the file that the set names
    with raises(InvalidInputError, "wrong-sae", "fingerprint"):
        acts.decode(sae=other)


def test_an_sae_that_scales_by_the_norm_of_its_input_is_refused(tmp_path):
    lens = pytest.importorskip("sae_lens")
    config = lens.StandardSAEConfig(d_in=6, d_sae=14, normalize_activations="layer_norm")
    acts = write_case(scratch_store(), CASE)
    with raises(InvalidInputError, "norm-not-stored", "layer_norm"):
        acts.decode(3, lens.StandardSAE(config))
