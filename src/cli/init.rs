//! `imgbuild init`.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::stdin::on_stdin;
use crate::error::{Context, Error, Kind, Result};
use crate::recipe::{self, NoWeb, Overrides, Size};
use crate::run::Interrupt;
use crate::ui::{self, Screen};

/// Asking stops here: what was answered wrong so often was not answered by a person.
const MOST_TRIES: usize = 5;

#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Where the recipe goes
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// What the image is called [default: the folder's name, or "image"]
    #[arg(long)]
    name: Option<String>,
    /// The base image: debian=RELEASE, ubuntu=RELEASE or file=PATH [default: debian=12]
    #[arg(long, value_parser = Source::parse)]
    source: Option<Source>,
    /// The memory of the build's machine [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<String>,
    /// The size of the image's disk [default: the base image's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk: Option<String>,
}

/// A base image, as it is given on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    key: String,
    value: String,
}

impl Source {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key @ ("debian" | "ubuntu" | "file"), value)) if !value.is_empty() => {
                Ok(Source {
                    key: key.into(),
                    value: value.into(),
                })
            }
            _ => Err("write debian=12, ubuntu=24.04 or file=PATH".into()),
        }
    }
}

fn size(text: &str) -> Result<String, String> {
    text.parse::<Size>().map(|_| text.to_owned())
}

/// All that the recipe depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    name: String,
    source: Source,
    memory: String,
    disk: Option<String>,
}

/// Writes a recipe that can be built as it is.
pub async fn run(arguments: Arguments, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let asks = io::stdin().is_terminal() && io::stderr().is_terminal() && !ui::is_ci();
    let answers = match asks {
        true => {
            let asked = arguments.clone();
            let asking = on_stdin(move |stdin| ask(&asked, stdin, &mut io::stderr()));
            let asking = async { asking.await.doing(|| "asking what to build") };
            interrupt.or(asking).await?
        }
        false => {
            let (answers, defaults) = with_defaults(&arguments);
            if !defaults.is_empty() {
                screen.note(&format!(
                    "no terminal to ask on: {} as by default",
                    defaults.join(", ")
                ));
            }
            answers
        }
    };
    let path = arguments.folder.join(format!("{}.toml", answers.name));
    let text = text(&answers, &path)?;
    // What cannot be built is not written: a name that is none, for instance.
    let shown = path.display().to_string();
    let folder = std::path::absolute(&arguments.folder).doing(|| format!("resolving {shown}"))?;
    recipe::parse(&shown, &text, &folder, &Overrides::default(), &NoWeb).await?;
    write(&path, &text)?;
    screen.result(
        &format!("{shown} is written. Build it with\n  imgbuild run {shown}\n"),
        &json!({"event": "result", "recipe": path, "next": ["imgbuild", "run", shown]}),
    );
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing(doing)?;
    }
    let mut file = match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::new(doing())
                .kind(Kind::Usage)
                .cause("it is there already")
                .hint("choose another --name, or another folder"));
        }
        opened => opened.doing(doing)?,
    };
    file.write_all(text.as_bytes()).doing(doing)
}

/// What is not given is as by default; also tells which that are.
fn with_defaults(arguments: &Arguments) -> (Answers, Vec<String>) {
    let mut defaults = vec![];
    let mut or = |given: &Option<String>, what: &str, default: String| {
        given.clone().unwrap_or_else(|| {
            defaults.push(format!("{what} {default}"));
            default
        })
    };
    let name = or(&arguments.name, "name", default_name(&arguments.folder));
    let given = arguments.source.as_ref();
    let source = or(
        &given.map(|source| source.value.clone()),
        "source debian",
        "12".into(),
    );
    let memory = or(&arguments.memory, "memory", "2GiB".into());
    let key = given.map_or("debian", |source| &source.key).to_owned();
    let answers = Answers {
        name,
        source: Source { key, value: source },
        memory,
        disk: arguments.disk.clone(),
    };
    (answers, defaults)
}

/// The folder's own name, if an image can have it.
fn default_name(folder: &Path) -> String {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| {
        name.len() <= 63
            && name.chars().all(letters)
            && !name.starts_with('-')
            && !name.ends_with('-')
    });
    name.unwrap_or("image").to_owned()
}

/// Asks for what is not given. An empty answer, and the end of the input, is the default.
fn ask(
    arguments: &Arguments,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Answers> {
    let (mut answers, _) = with_defaults(arguments);
    if arguments.name.is_none() {
        let same = |text: &str| Ok(text.to_owned());
        answers.name = question("Name of the image", answers.name, same, input, output)?;
    }
    if arguments.source.is_none() {
        let about = "Base image (debian=12, ubuntu=24.04 or file=PATH)";
        let default = format!("{}={}", answers.source.key, answers.source.value);
        let parse = |text: &str| Source::parse(text).map(|_| text.to_owned());
        let source = question(about, default, parse, input, output)?;
        answers.source = Source::parse(&source).map_err(io::Error::other)?;
    }
    if arguments.memory.is_none() {
        answers.memory = question("Memory of the machine", answers.memory, size, input, output)?;
    }
    Ok(answers)
}

fn question(
    about: &str,
    default: String,
    parse: impl Fn(&str) -> Result<String, String>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<String> {
    for _ in 0..MOST_TRIES {
        write!(output, "{about} [{default}]: ")?;
        output.flush()?;
        let mut line = String::new();
        input.read_line(&mut line)?;
        match line.trim() {
            "" => return Ok(default),
            line => match parse(line) {
                Ok(answer) => return Ok(answer),
                Err(wrong) => writeln!(output, "{wrong}")?,
            },
        }
    }
    Err(io::Error::other("no answer that could be used"))
}

/// The recipe. A file is named from the current folder on a command line, and from the recipe's folder in it.
fn text(answers: &Answers, path: &Path) -> Result<String> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let Source { key, value } = &answers.source;
    let value = match key.as_str() {
        "file" => {
            let full = std::path::absolute(value).doing(|| format!("resolving {value}"))?;
            full.display().to_string()
        }
        _ => value.clone(),
    };
    let disk = answers.disk.as_ref();
    let disk = disk.map_or_else(String::new, |disk| format!("disk = {}\n", quoted(disk)));
    Ok(format!(
        r#"# Check it: imgbuild validate {path}
# Build it: imgbuild run {path}

[image]
name = {name}

[source]
{key} = {value}

[machine]
memory = {memory}
{disk}
[[step]]
name = "greeting"
run = "echo 'Made by imgbuild' >/etc/motd"

[[test]]
name = "the greeting is there"
run = "grep -F 'Made by imgbuild' /etc/motd"
"#,
        path = path.file_name().unwrap_or_default().to_string_lossy(),
        name = quoted(&answers.name),
        value = quoted(&value),
        memory = quoted(&answers.memory),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(folder: &str) -> Arguments {
        Arguments {
            folder: folder.into(),
            name: None,
            source: None,
            memory: None,
            disk: None,
        }
    }

    fn asked(arguments: &Arguments, answers: &str) -> (io::Result<Answers>, String) {
        let mut output = vec![];
        let result = ask(arguments, &mut answers.as_bytes(), &mut output);
        (result, String::from_utf8(output).unwrap())
    }

    #[test]
    fn empty_answers_are_the_defaults() {
        let expected = with_defaults(&arguments("web")).0;
        assert_eq!(expected.name, "web");
        assert_eq!(asked(&arguments("web"), "\n\n\n").0.unwrap(), expected);
        assert_eq!(
            asked(&arguments("web"), "").0.unwrap(),
            expected,
            "end of input"
        );
        assert_eq!(default_name(Path::new("My Images")), "image");
    }

    #[test]
    fn only_what_is_not_given_is_asked_and_a_wrong_answer_is_asked_again() {
        let given = Arguments {
            name: Some("x".into()),
            ..arguments(".")
        };
        let (answers, output) = asked(&given, "fedora\nubuntu=24.04\nmuch\n1GiB\n");
        let answers = answers.unwrap();
        assert_eq!(
            (answers.name.as_str(), answers.memory.as_str()),
            ("x", "1GiB")
        );
        assert_eq!(answers.source, Source::parse("ubuntu=24.04").unwrap());
        assert!(
            !output.contains("Name") && output.contains("is no size"),
            "{output}"
        );
        assert_eq!(output.matches("Base image").count(), 2, "{output}");
    }

    #[test]
    fn nobody_is_asked_for_ever() {
        asked(&arguments("."), &"x\n".repeat(50)).0.unwrap_err();
    }
}
