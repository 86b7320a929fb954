//! The page: valid, without addresses, with everything escaped, and with the numbers of the
//! records.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use kif_methods::Regime;
use kif_report::record::Record;
use scraper::{ElementRef, Html, Selector};
use tempfile::TempDir;

use crate::kit::{arg, small_benchmark, succeed};

const METHODS: [&str; 5] = ["seq_lora", "migu", "kif-paper", "joint", "per_task"];
const SECTIONS: [&str; 9] = [
    "ranking",
    "matrices",
    "forgetting",
    "cost",
    "fusion",
    "training",
    "tasks",
    "lock",
    "formulas",
];

/// Names of tasks that mean something to a browser, as text and in attributes.
const HOSTILE: [&str; 2] = [
    "<script>alert(1)</script>",
    "\" onmouseover=\"alert(2)\" x='&lt;b&gt;",
];

/// A run of two tasks that took their names after it was over: a folder cannot have such a name.
/// One seed, so that every number is that of a record.
static RUN: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let methods = METHODS.map(|name| format!("{name:?}")).join(", ");
    let protocol = small_benchmark(folder.path(), &methods);
    let out = folder.path().join("run");
    succeed(&["bench", arg(&protocol), "--out", arg(&out)]);
    for path in records(&out) {
        let mut record = Record::read(&path).unwrap();
        let named = |name: &str| match name {
            "a" => HOSTILE[0].to_owned(),
            "b" => HOSTILE[1].to_owned(),
            other => other.to_owned(),
        };
        record.tasks = record.tasks.iter().map(|task| named(task)).collect();
        for note in &mut record.task_notes {
            note.name = named(&note.name);
        }
        for curve in &mut record.losses {
            curve.task = named(&curve.task);
        }
        record.write(&path).unwrap();
    }
    let settings = out.join("protocol.ron");
    let text = fs::read_to_string(&settings).unwrap();
    let renamed = text
        .replace("\"a\"", &format!("{:?}", HOSTILE[0]))
        .replace("\"b\"", &format!("{:?}", HOSTILE[1]));
    assert_ne!(text, renamed);
    fs::write(&settings, renamed).unwrap();
    succeed(&["report", arg(&out)]);
    folder
});

fn run() -> PathBuf {
    RUN.path().join("run")
}

fn records(out: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = (fs::read_dir(out.join("cells")).unwrap())
        .map(|entry| entry.unwrap().path().join("record.json"))
        .collect();
    paths.sort();
    paths
}

fn page() -> String {
    fs::read_to_string(run().join("report.html")).unwrap()
}

fn select<'a>(of: ElementRef<'a>, selector: &str) -> Vec<ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    of.select(&selector).collect()
}

fn text(of: ElementRef<'_>) -> String {
    of.text().collect::<String>().trim().to_owned()
}

/// Cells of the rows of a table's body.
fn rows(table: ElementRef<'_>) -> Vec<Vec<String>> {
    let cells = |row| select(row, "th, td").into_iter().map(text).collect();
    select(table, "tbody tr").into_iter().map(cells).collect()
}

/// The row of a method in the first table of a section whose head has `column`.
fn cell(page: &Html, section: &str, method: &str, column: &str) -> String {
    let tables = select(page.root_element(), &format!("#{section} table"));
    for table in tables {
        let head: Vec<String> = select(table, "thead th").into_iter().map(text).collect();
        let Some(at) = head.iter().position(|title| title == column) else {
            continue;
        };
        let row = rows(table).into_iter().find(|row| row[0] == method);
        return row.expect("the method has a row")[at].clone();
    }
    panic!("no table in {section} has a column {column}")
}

fn percent(score: f64) -> String {
    format!("{:.1}", 100.0 * score)
}

#[test]
fn the_page_is_valid_html_in_which_every_section_has_content() {
    let html = Html::parse_document(&page());
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    let broken = Html::parse_document("<!DOCTYPE html><title>t</title><p><b></p>");
    assert!(!broken.errors.is_empty(), "the reader is strict");
    let root = html.root_element();
    let ids: Vec<&str> = (select(root, "[id]").iter().map(|e| e.attr("id").unwrap())).collect();
    assert_eq!(ids, SECTIONS);
    for id in SECTIONS {
        let content = select(root, &format!("#{id} table, #{id} svg, #{id} dl"));
        assert!(!content.is_empty(), "{id}");
    }
    for link in select(root, "a") {
        let target = link.attr("href").unwrap().strip_prefix('#').unwrap();
        assert!(ids.contains(&target), "{target}");
    }
    for table in select(root, "table") {
        let n_columns = select(table, "thead th").len();
        assert!(rows(table).iter().all(|row| row.len() == n_columns));
    }
    for drawing in select(root, "svg.chart") {
        assert_eq!(drawing.attr("role"), Some("img"));
        assert!(!drawing.attr("aria-label").unwrap().is_empty());
        let numbers = drawing.html();
        assert!(
            !numbers.contains("NaN") && !numbers.contains("inf "),
            "{numbers}"
        );
    }
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let page = page();
    for address in ["://", "src=", "@import", "url(", "javascript:"] {
        assert!(!page.contains(address), "{address}");
    }
    let html = Html::parse_document(&page);
    let loaders = "script, link, img, iframe, object, embed, base, form, audio, video, use, image";
    assert!(select(html.root_element(), loaders).is_empty());
    for element in select(html.root_element(), "*") {
        for (name, _) in element.value().attrs() {
            assert!(!name.starts_with("on"), "{name} of {}", element.html());
        }
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn names_are_shown_as_they_are() {
    let html = Html::parse_document(&page());
    let tasks = select(html.root_element(), "#tasks table").remove(0);
    let names: Vec<String> = rows(tasks).into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, HOSTILE);
    let broken = select(html.root_element(), "#matrices th[title]");
    assert!(
        broken
            .iter()
            .any(|name| name.attr("title") == Some(HOSTILE[1]))
    );
    let labels = select(html.root_element(), "#forgetting svg");
    let label = labels
        .iter()
        .find_map(|svg| svg.attr("aria-label"))
        .unwrap();
    assert!(label.contains(HOSTILE[0]), "{label}");
    let markdown = fs::read_to_string(run().join("report.md")).unwrap();
    assert!(markdown.contains("\\<script\\>alert(1)\\</script\\>"));
}

#[test]
fn numbers_are_those_of_the_records() {
    let html = Html::parse_document(&page());
    let cell = |section, method: &str, column| cell(&html, section, method, column);
    let mut n_masks = 0;
    for path in records(&run()) {
        let record = Record::read(&path).unwrap();
        let name = record.method.as_str();
        let metric = |name: &str| record.metrics[name];
        assert_eq!(cell("ranking", name, "OP"), percent(metric("op")), "{name}");
        if record.settings.method.regime() == Regime::Stream {
            assert_eq!(cell("ranking", name, "BWT"), percent(metric("bwt.gem")));
            let forgetting = percent(metric("forgetting.chaudhry"));
            assert_eq!(cell("ranking", name, "forgetting"), forgetting);
            assert_eq!(cell("ranking", name, "fwt.gem"), percent(metric("fwt.gem")));
        }
        let folded = select(html.root_element(), "#matrices details");
        let own = folded
            .into_iter()
            .find(|one| text(select(*one, "summary")[0]) == name);
        for (after, row) in rows(select(own.unwrap(), "table")[0]).iter().enumerate() {
            for (task, shown) in row[1..].iter().enumerate() {
                let score = record.scores.get(after, task);
                assert_eq!(*shown, score.map_or(String::new(), percent), "{name}");
            }
        }
        for (task, hostile) in HOSTILE.iter().enumerate() {
            let score = record.scores.last(task).unwrap();
            assert_eq!(cell("tasks", name, hostile), percent(score));
        }
        let (cost, kept) = (record.cost, record.kept.unwrap());
        let train_s: f64 = record.timing.tasks.iter().map(|task| task.train_s).sum();
        for (column, value) in [
            ("updates", cost.updates.to_string()),
            ("tokens backward", cost.tokens.to_string()),
            ("tokens forward", cost.tokens_forward().to_string()),
            ("rows replayed", cost.memory_rows.to_string()),
            ("rows kept", kept.rows.to_string()),
            ("bytes kept", kept.bytes().to_string()),
            ("training s", format!("{train_s:.1}")),
        ] {
            assert_eq!(cell("cost", name, column), value, "{column} of {name}");
        }
        if name == "migu" {
            assert!(cost.tokens_forward() > cost.tokens);
        }
        if let Some(trace) = &record.fusion {
            n_masks += 1;
            let task = &trace.tasks[0];
            let all = task.rounds as f64 * record.n_params as f64;
            let share = |counts: &[u64]| percent(counts.iter().sum::<u64>() as f64 / all);
            assert_eq!(cell("fusion", name, "rounds"), task.rounds.to_string());
            assert_eq!(
                cell("fusion", name, "new task only"),
                share(&task.inner_only)
            );
            assert_eq!(cell("fusion", name, "memory only"), share(&task.outer_only));
            assert_eq!(cell("fusion", name, "both"), share(&task.both));
        }
    }
    assert_eq!(n_masks, 1);
}

#[test]
fn the_same_records_give_the_same_bytes_whatever_the_order_of_their_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["protocol.ron", "lock.json"] {
        fs::copy(run().join(name), folder.path().join(name)).unwrap();
    }
    for path in records(&run()).into_iter().rev() {
        let cell = path.parent().unwrap().file_name().unwrap();
        let at = folder.path().join("cells").join(cell);
        fs::create_dir_all(&at).unwrap();
        fs::copy(&path, at.join("record.json")).unwrap();
    }
    succeed(&["report", arg(folder.path())]);
    for name in ["report.html", "report.md"] {
        let read = |out: &Path| fs::read(out.join(name)).unwrap();
        assert_eq!(read(folder.path()), read(&run()), "{name}");
    }
}

#[test]
fn a_browser_shows_every_section_and_has_nothing_to_complain_about() {
    let Some(browser) = std::env::var_os("KIF_BROWSER") else {
        // Past the harness, which keeps what passing tests print.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: KIF_BROWSER does not name a Chromium"
        );
        return;
    };
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(&browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-quic",
        ])
        .args(["--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", run().join("report.html").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{browser:?}: {said}");
    // Script errors, blocked requests and files that are not there all go to the console.
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let html = Html::parse_document(&String::from_utf8_lossy(&output.stdout));
    let root = html.root_element();
    for id in SECTIONS {
        let content = select(root, &format!("#{id} table, #{id} svg, #{id} dl"));
        assert!(!content.is_empty(), "{id}");
    }
    assert!(select(root, "script").is_empty());
    let names = select(root, "#tasks th[scope=row]");
    assert_eq!(text(names[0]), HOSTILE[0]);
}
