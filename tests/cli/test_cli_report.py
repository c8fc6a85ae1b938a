def test_a_report_of_a_simulated_flow_and_of_one_party_of_it(unseen, project, tmp_path):
    assert unseen("run", project / "flow.yaml", "--workspace", tmp_path / "out").code == 0
    for folder in (tmp_path / "out", tmp_path / "out" / "bank"):
        out = tmp_path / f"{folder.name}.html"
        ended = unseen("report", folder, "--out", out)
        assert ended.code == 0
        assert str(out) in ended.out.replace("\n", "")
        page = out.read_text(encoding="utf-8")
        assert "psi_join" in page
        assert "partner" in page
    printed = unseen("report", tmp_path / "out", "--table", "--out", tmp_path / "unwritten.html")
    assert "Time and traffic per step" in printed.out
    assert "align" in printed.out
    assert not (tmp_path / "unwritten.html").exists()


def test_a_report_needs_a_workspace(unseen, tmp_path):
    ended = unseen("report", tmp_path)
    assert ended.code == 2
    assert "is no workspace: expected the folder of `unseen run`" in ended.err.replace("\n", " ")
