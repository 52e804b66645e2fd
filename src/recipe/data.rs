//! `[data.NAME]`: documents that a recipe's templates look things up in.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::de::DeValue;

use super::decode;
use super::document::Value;
use super::schema::{self, pattern};
use super::spanned::Spanned;
use super::template::{Datum, Scope};
use crate::error::{Error, Fault, Result, Sources};
use crate::text::hex;

/// A document that templates look things up in: exactly one of `json` and `text`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_document)]
pub struct Data {
    /// The http or https address, or the path, of a JSON document.
    #[schemars(example = &"https://example.org/release.json")]
    pub json: Option<Spanned<String>>,
    /// The address or path of a text. The newlines at its end are left out.
    #[schemars(example = &"files/motd")]
    pub text: Option<Spanned<String>>,
    /// What the document's digest must be.
    #[schemars(extend("pattern" = pattern::SHA256), example = &schema::SAMPLE_DIGEST)]
    pub sha256: Option<Spanned<String>>,
}

/// A document that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Document {
    /// `NAME` of `[data.NAME]`; in a bundle, with the bundle's name before it.
    pub name: String,
    /// URL or path, as it was resolved.
    pub location: String,
    pub sha256: String,
}

/// Brings documents from the network, which is no business of a recipe's.
pub trait Web {
    /// The document at an http(s) URL.
    fn get(&self, url: &str) -> impl Future<Output = Result<Vec<u8>>>;
}

/// No network at all: a recipe that wants data from there cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct NoWeb;

impl Web for NoWeb {
    async fn get(&self, url: &str) -> Result<Vec<u8>> {
        Err(Error::new(format!("fetching {url}")).cause("there is no network here"))
    }
}

/// Resolves `[data]`: its strings may use variables. What is missing becomes a fault.
pub async fn resolve(
    table: Option<Value<'_>>,
    prefix: &str,
    scope: &Scope,
    web: &impl Web,
    sources: &Sources,
    faults: &mut Vec<Fault>,
) -> (BTreeMap<String, Datum>, Vec<Document>) {
    let mut values = BTreeMap::new();
    let mut documents = vec![];
    for (name, mut value) in entries(table, faults) {
        let span = value.span();
        scope.render(&mut value, sources, faults);
        let Some(data) = decode::decode::<Data>(value, faults) else {
            continue;
        };
        match one(&data, &span, web, sources).await {
            Ok((datum, location, sha256)) => {
                documents.push(Document {
                    name: format!("{prefix}{name}"),
                    location,
                    sha256,
                });
                values.insert(name, datum);
            }
            Err(fault) => faults.push(fault),
        }
    }
    (values, documents)
}

fn entries<'t>(table: Option<Value<'t>>, faults: &mut Vec<Fault>) -> Vec<(String, Value<'t>)> {
    let Some(value) = table else {
        return vec![];
    };
    let span = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        faults.push(Fault::new(span, "write [data.NAME], with `json` or `text`"));
        return vec![];
    };
    let named = table.into_iter();
    named
        .map(|(key, value)| (key.into_inner().into_owned(), value))
        .collect()
}

async fn one(
    data: &Data,
    span: &Range<usize>,
    web: &impl Web,
    sources: &Sources,
) -> Result<(Datum, String, String), Fault> {
    let (written, is_json) = match (&data.json, &data.text) {
        (Some(json), None) => (json, true),
        (None, Some(text)) => (text, false),
        _ => {
            let fault = Fault::new(span.clone(), "exactly one of `json` and `text` is needed");
            return Err(fault.hint("either is a URL or the path of a file"));
        }
    };
    let failed = |why: String| Fault::new(written.span(), why);
    let location = written.get_ref();
    let (bytes, location) = if location.contains("://") {
        let got = web.get(location).await;
        (
            got.map_err(|error| failed(error.to_string()))?,
            location.clone(),
        )
    } else {
        let path = super::resolved(sources, written);
        let read = std::fs::read(&path);
        let told = |error| failed(super::files::cannot_read(location, &error));
        (read.map_err(told)?, path.display().to_string())
    };
    let sha256 = hex(&Sha256::digest(&bytes));
    if let Some(expected) = &data.sha256
        && !expected.get_ref().eq_ignore_ascii_case(&sha256)
    {
        let message = format!("the document's digest is {sha256}");
        return Err(Fault::new(expected.span(), message));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not text (UTF-8)".into()))?;
    let text = text.trim_end_matches('\n').to_owned();
    let value = match is_json {
        false => text.as_str().into(),
        true => serde_json::from_str::<serde_json::Value>(&text)
            .map(|value| super::template::from_json(&value))
            .map_err(|error| failed(format!("it is not JSON: {error}")))?,
    };
    Ok((Datum { value, text }, location, sha256))
}
