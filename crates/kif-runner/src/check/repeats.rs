//! Rows that stand in two places: in a file, in train and test of a task, in two tasks.

use std::collections::{BTreeMap, HashMap};

use kif_data::{Content, Row, Split};

use super::Findings;
use super::tasks::TaskCheck;

/// Half of a task: position among the tasks, position among its halves.
type Half = (usize, usize);

/// Notes rows with the same prompt and the same first reference, once for every pair of halves.
pub(super) fn find(tasks: &BTreeMap<String, TaskCheck>, findings: &mut Findings) {
    let mut seen: HashMap<blake3::Hash, Vec<(Half, usize)>> = HashMap::new();
    let mut pairs: BTreeMap<(Half, Half), (usize, usize, usize)> = BTreeMap::new();
    for (task, check) in tasks.values().enumerate() {
        for (half, survey) in check.halves.iter().enumerate() {
            for (row, &line) in survey.rows.iter().zip(&survey.lines) {
                let places = seen.entry(key(row)).or_default();
                for (earlier, first_line) in places.iter() {
                    let pair = pairs.entry((*earlier, (task, half)));
                    pair.or_insert((0, *first_line, line)).0 += 1;
                }
                if !places.iter().any(|(half_of, _)| *half_of == (task, half)) {
                    places.push(((task, half), line));
                }
            }
        }
    }
    let checks: Vec<(&String, &TaskCheck)> = tasks.iter().collect();
    let file = |(task, half): Half| -> String {
        let path = checks[task].1.halves[half].path.as_ref();
        path.map_or(String::new(), |path| path.display().to_string())
    };
    for ((a, b), (n, first_line, line)) in pairs {
        let example = format!("first {}:{line} as {}:{first_line}", file(b), file(a));
        let (task, other) = (checks[b.0].0, checks[a.0].0);
        if a == b {
            findings.warning(format!(
                "{}: {n} rows repeat an earlier one, {example}",
                file(a)
            ));
        } else if a.0 == b.0 {
            findings.error(format!(
                "task {task}: {n} test rows are training rows, too: {example}"
            ));
        } else {
            let of = |half: usize| [Split::Train, Split::Test][half].name();
            findings.warning(format!(
                "{n} {} rows of task {task} are {} rows of task {other}, too: {example}",
                of(b.1),
                of(a.1)
            ));
        }
    }
}

/// The same for rows with the same prompt and first reference.
fn key(row: &Row) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match &row.content {
        Content::Text { prompt, references } => {
            part(prompt.as_str().as_bytes());
            part(references.first().map_or("", String::as_str).as_bytes());
        }
        Content::Ids {
            input_ids,
            target_ids,
        } => {
            for ids in [input_ids, target_ids] {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                part(&bytes);
            }
        }
    }
    hasher.finalize()
}
