//! `matrix`: one recipe, several images.

use std::ops::Range;

use toml::de::DeValue;

use super::document::Value;
use super::vars::{Vars, plain};
use crate::error::Fault;

/// More images than this from one recipe are a mistake.
const MOST: usize = 256;

/// The values that each build of the recipe has for the variables of the matrix; one build without any if there is no
/// matrix. The last variable changes first.
pub fn combinations(matrix: Option<Value<'_>>, faults: &mut Vec<Fault>) -> Vec<Vars> {
    let Some(matrix) = matrix else {
        return vec![Vars::new()];
    };
    let span = matrix.span();
    let DeValue::Table(axes) = matrix.into_inner() else {
        let fault = Fault::new(span, "`matrix` is a table of lists");
        faults.push(fault.hint("write matrix = { NAME = [\"…\", \"…\"] }"));
        return vec![];
    };
    let mut builds = vec![Vars::new()];
    for (name, values) in axes {
        let place = values.span();
        let Some(values) = axis(values, faults) else {
            return vec![];
        };
        if builds.len() * values.len() > MOST {
            faults.push(Fault::new(
                place,
                format!("these are more than {MOST} images"),
            ));
            return vec![];
        }
        builds = builds
            .iter()
            .flat_map(|build| {
                values.iter().map(|value| {
                    let mut build = build.clone();
                    build.insert(name.get_ref().to_string(), value.clone());
                    build
                })
            })
            .collect();
    }
    builds
}

fn axis(values: Value<'_>, faults: &mut Vec<Fault>) -> Option<Vec<toml::Value>> {
    let span: Range<usize> = values.span();
    match plain(values, faults)? {
        toml::Value::Array(values) if !values.is_empty() => Some(values),
        _ => {
            faults.push(Fault::new(
                span,
                "this must be a list of at least one value",
            ));
            None
        }
    }
}
