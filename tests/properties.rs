//! What holds for every text, not only for those that somebody thought of.
//! `PROPTEST_CASES=5000 cargo test --test properties` looks longer.

use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use imgbuild::plan::{Facts, Plan};
use imgbuild::recipe::{self, NoWeb, Overrides, Recipe};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const FOLDER: &str = "tests/recipes/good";

/// The recipes and bundles that mutations start from.
fn good() -> Vec<String> {
    let folders = [
        FOLDER,
        "tests/recipes/good/bundles",
        "tests/recipes/bad/parts",
        "recipes",
        "bundles",
    ];
    let files = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten();
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

/// Pieces that mean something in recipes.
const PIECES: &[&str] = &[
    "[image]",
    "[[step]]",
    "[[step",
    "[vars]",
    "[vars.a]\n",
    "[data.x]\n",
    "matrix = { a = [1, 2] }\n",
    "extends = \"smallest.toml\"\n",
    "use = \"greeting\"\n",
    "if = \"a\"\n",
    "before = \"restart\"\n",
    "{{",
    "}}",
    "{% raw %}",
    "{% for x in a %}",
    "{{ a | sh }}",
    "{{ [] | slug }}",
    "'''",
    "\"\"\"",
    "\"",
    "\\",
    "#",
    " # x\n",
    "\n\n\n",
    "\r\n",
    "\t",
    " ",
    ",",
    "=",
    "{",
    "}",
    "[",
    "]",
    "null",
    "1e400",
    "99999999999999999999",
    "-1",
    "0x",
    "true",
    "1979-05-27T07:32:00Z",
    "é",
    "\u{0}",
    "\u{feff}",
    "a.b.c = 1\n",
    "[]",
    "{}",
    "run = ''\n",
];

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    Insert(usize, String),
    Delete(usize, usize),
    /// A line is put somewhere else.
    Move(usize, usize),
    /// A line is there twice.
    Double(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        4 => proptest::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        3 => (any::<usize>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        2 => (any::<usize>(), 1..8usize).prop_map(|(at, length)| Change::Delete(at, length)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Move(from, to)),
        1 => any::<usize>().prop_map(Change::Double),
    ]
}

fn changed(text: String, changes: Vec<Change>) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for change in changes {
        let place = |at: usize| at % (text.len() + 1);
        match change {
            Change::Insert(at, piece) => {
                let at = place(at);
                text.splice(at..at, piece.chars());
            }
            Change::Delete(at, length) => {
                let at = place(at);
                text.drain(at..text.len().min(at + length));
            }
            Change::Move(..) | Change::Double(_) => {
                let whole: String = text.iter().collect();
                let mut lines: Vec<&str> = whole.split_inclusive('\n').collect();
                let count = lines.len().max(1);
                match change {
                    Change::Move(from, to) if !lines.is_empty() => {
                        let line = lines.remove(from % count);
                        lines.insert(to % count, line);
                    }
                    Change::Double(at) if !lines.is_empty() => {
                        let line = lines[at % count];
                        lines.insert(at % count, line);
                    }
                    _ => {}
                }
                text = lines.concat().chars().collect();
            }
        }
    }
    text.into_iter().collect()
}

/// A good recipe with some changes; many are still TOML, and some still valid.
fn mutated() -> impl Strategy<Value = String> {
    let changes = proptest::collection::vec(change(), 0..6);
    (proptest::sample::select(good()), changes).prop_map(|(text, changes)| changed(text, changes))
}

/// Values with spaces, line breaks and comments wherever TOML lets them be.
fn value() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "1",
        "true",
        "'a # b'",
        "\"\"\"\nx\n\"\"\"",
        "1.5",
        "'a long text that fills a line'",
    ]);
    let space = || proptest::sample::select(vec!["", " ", "\t", "  "]);
    let line = || proptest::sample::select(vec!["", " ", "\n", " # c\n", "\n# d\n\n  # e\n"]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(3, 12, 4, move |inner| {
            let elements = proptest::collection::vec((line(), inner.clone(), line()), 0..5);
            let array = (elements, line()).prop_map(|(elements, end)| {
                let elements = elements
                    .into_iter()
                    .map(|(before, value, after)| format!("{before}{value}{after},"));
                format!("[{}{end}]", elements.collect::<String>())
            });
            let entries = proptest::collection::vec((space(), inner, space()), 0..4);
            let table = (entries, space()).prop_map(|(entries, end)| {
                let entries = entries.into_iter().enumerate();
                let entries = entries.map(|(at, (before, value, after))| {
                    format!("{before}k{at}.d{after}={before}{value}{after}")
                });
                format!("{{{}{end}}}", entries.collect::<Vec<_>>().join(","))
            });
            prop_oneof![array, table]
        })
}

/// A document that is always TOML.
fn document() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => (value(), proptest::sample::select(vec!["", " # f", "  "])).prop_map(|(value, end)| format!("  KEY   ={value}{end}\n")),
        1 => Just(" KEY . d= 1 # g\n".to_owned()),
        1 => Just("[ KEY ]\n".to_owned()),
        1 => Just("[KEY. d] # h\n".to_owned()),
        1 => Just("[[KEY]]\n".to_owned()),
        1 => Just("\n\n".to_owned()),
        1 => Just(" # i  \n".to_owned()),
    ];
    let lines = proptest::collection::vec(line, 0..12);
    lines.prop_map(|lines| {
        let lines = lines.into_iter().enumerate();
        lines
            .map(|(at, line)| line.replace("KEY", &format!("k{at}")))
            .collect()
    })
}

/// Reads a text as a recipe beside the good ones. That it does not panic is what is tested.
fn read(text: &str) -> Option<Vec<Recipe>> {
    let path = format!("{FOLDER}/mutated.toml");
    let overrides = Overrides::default();
    let recipes = recipe::parse(&path, text, Path::new(FOLDER), &overrides, &NoWeb);
    match recipes.now_or_never().unwrap() {
        Ok(recipes) => Some(recipes),
        Err(error) => {
            let faults = error.get_faults().unwrap();
            assert!(!faults.list.is_empty(), "refused without a reason");
            for fault in &faults.list {
                let (source, span) = faults.sources.locate(&fault.span).unwrap();
                assert!(
                    source.text.get(span).is_some(),
                    "no place in the text: {fault:?}"
                );
            }
            None
        }
    }
}

fn meaning(text: &str) -> Option<String> {
    // As text, since a NaN is not itself.
    toml::from_str::<toml::Table>(text)
        .ok()
        .map(|table| format!("{table:?}"))
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_pieces_are_refused_or_read(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..30)) {
        read(&pieces.concat());
    }

    #[test]
    fn a_recipe_that_is_valid_has_a_plan(text in mutated()) {
        for recipe in read(&text).into_iter().flatten() {
            let plan = Plan::new(&recipe, &Facts::default());
            prop_assert_eq!(&plan.name, recipe.image.name.get_ref());
            let steps = plan.steps.len() + plan.finally.len();
            prop_assert_eq!(steps, recipe.steps.len());
        }
    }

    #[test]
    fn formatting_changes_no_meaning_and_is_done_once(text in prop_oneof![mutated(), document()]) {
        let formatted = recipe::format("x.toml", &text);
        prop_assert_eq!(formatted.is_ok(), meaning(&text).is_some());
        if let Ok(formatted) = formatted {
            prop_assert_eq!(meaning(&formatted), meaning(&text), "{}", formatted);
            prop_assert_eq!(&recipe::format("x.toml", &formatted).unwrap(), &formatted);
            prop_assert_eq!(comments(&formatted), comments(&text));
        }
    }
}

/// What each comment begins with, in any order; also what only looks like a comment.
fn comments(text: &str) -> Vec<&str> {
    let after = text.split("# ").skip(1);
    let mut begins: Vec<&str> = after
        .filter_map(|rest| rest.trim_start().get(..1))
        .collect();
    begins.sort();
    begins
}

#[test]
fn documents_are_toml() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..100 {
        let text = document().new_tree(&mut runner).unwrap().current();
        assert!(meaning(&text).is_some(), "{text}");
    }
}

#[test]
fn mutations_leave_some_recipes_valid_and_break_others() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut valid = 0;
    for _ in 0..100 {
        let text = mutated().new_tree(&mut runner).unwrap().current();
        valid += usize::from(read(&text).is_some());
    }
    assert!((1..100).contains(&valid), "{valid} of 100 are valid");
}
