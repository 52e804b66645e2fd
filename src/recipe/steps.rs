//! From the steps that are written to those that are done: conditions are decided, templates rendered, bundles put in
//! their place, files read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;

use toml::de::{DeTable, DeValue};

use super::bundle::{self, Bundle};
use super::data::{self, Document, Web};
use super::document::{Texts, Value, text_of};
use super::files::{self, Content};
use super::spanned::Spanned;
use super::template::Scope;
use super::types::Step;
use super::{decode, vars};
use crate::error::{Fault, Sources};

/// A step with everything that it needs.
#[derive(Debug)]
pub struct Loaded {
    pub step: Step,
    pub span: Range<usize>,
    pub content: Content,
    /// Variables and documents that the step's script asks for by name.
    pub exports: BTreeMap<String, String>,
}

/// Reads the steps of one recipe, and everything that they bring with them.
pub struct Reader<'r, W> {
    pub web: &'r W,
    /// The recipe's own folder, which may have bundles.
    pub folder: &'r Path,
    pub texts: &'r Texts,
    pub sources: &'r mut Sources,
    pub faults: &'r mut Vec<Fault>,
    /// What bundles looked up.
    pub documents: Vec<Document>,
    /// The names of steps whose condition is false.
    pub left_out: Vec<String>,
    /// The bundles that are being put in, the innermost last.
    within: Vec<String>,
    /// How often each bundle was used without a name.
    unnamed: BTreeMap<String, u32>,
}

impl<'r, W: Web> Reader<'r, W> {
    pub fn new(
        web: &'r W,
        folder: &'r Path,
        texts: &'r Texts,
        sources: &'r mut Sources,
        faults: &'r mut Vec<Fault>,
    ) -> Self {
        Reader {
            web,
            folder,
            texts,
            sources,
            faults,
            documents: vec![],
            left_out: vec![],
            within: vec![],
            unnamed: BTreeMap::new(),
        }
    }

    /// Reads a list of steps. `None` if any of them has a fault.
    pub fn steps<'s>(
        &'s mut self,
        written: Vec<Value<'r>>,
        scope: &'s Scope,
    ) -> Pin<Box<dyn Future<Output = Option<Vec<Loaded>>> + 's>> {
        // Bundles may use bundles.
        Box::pin(async move {
            let mut steps = Some(vec![]);
            for value in written {
                match (self.step(value, scope).await, &mut steps) {
                    (Some(more), Some(steps)) => steps.extend(more),
                    _ => steps = None,
                }
            }
            steps
        })
    }

    async fn step(&mut self, mut value: Value<'r>, scope: &Scope) -> Option<Vec<Loaded>> {
        let span = value.span();
        if !self.wanted(&value, scope)? {
            let name = text_of(&value, "name").or_else(|| text_of(&value, "use"));
            let name = name.unwrap_or("a step without a name");
            self.left_out.push(match self.within.last() {
                Some(bundle) => format!("{bundle}: {name}"),
                None => name.to_owned(),
            });
            return Some(vec![]);
        }
        let before = self.faults.len();
        scope.render(&mut value, self.sources, self.faults);
        let with = match value.get_mut() {
            DeValue::Table(table) => table.remove("with"),
            _ => None,
        };
        let step: Step = decode::decode(value, self.faults)?;
        super::check::step::step(&step, &span, with.is_some(), self.faults);
        if self.faults.len() > before {
            return None;
        }
        match step.bundle.clone() {
            Some(name) => self.put_in(&name, step, with).await,
            None => {
                let (content, exports) = files::content(&step, scope, self.sources, self.faults)?;
                Some(vec![Loaded {
                    step,
                    span,
                    content,
                    exports,
                }])
            }
        }
    }

    /// Decides a step's condition. `None` if it cannot be decided.
    fn wanted(&mut self, value: &Value<'_>, scope: &Scope) -> Option<bool> {
        let Some(condition) = value.get_ref().as_table().and_then(|table| table.get("if")) else {
            return Some(true);
        };
        let span = condition.span();
        match condition.get_ref() {
            DeValue::Boolean(wanted) => Some(*wanted),
            DeValue::String(expression) => match scope.evaluate(expression) {
                Ok(value) => Some(value.is_true()),
                Err(wrong) => {
                    let fault = wrong.at(span, self.sources);
                    self.faults.push(fault.hint(
                        "a condition is an expression without braces, such as \"version > 3\"",
                    ));
                    None
                }
            },
            _ => {
                let message = "a condition is an expression, or true or false";
                self.faults.push(Fault::new(span, message));
                None
            }
        }
    }

    async fn put_in(
        &mut self,
        name: &Spanned<String>,
        used: Step,
        with: Option<Value<'r>>,
    ) -> Option<Vec<Loaded>> {
        let (at, name) = (name.span(), name.get_ref().as_str());
        if self.within.iter().any(|outer| outer == name) {
            let fault = Fault::new(at, format!("the bundle `{name}` uses itself in turn"));
            self.faults.push(fault);
            return None;
        }
        let bundle = self.find(name, &at)?;
        let with = match with.map(Value::into_inner) {
            Some(DeValue::Table(with)) => with,
            _ => DeTable::new(),
        };
        let before = self.faults.len();
        let values = vars::arguments(name, &bundle.parameters, with, &at, self.faults);
        if self.faults.len() > before {
            return None;
        }
        let parameters = Scope::new(&values, BTreeMap::new());
        let prefix = format!("{name}.");
        let (data, documents) = data::resolve(
            bundle.data,
            &prefix,
            &parameters,
            self.web,
            self.sources,
            self.faults,
        )
        .await;
        self.documents.extend(documents);
        if self.faults.len() > before {
            return None;
        }
        let scope = Scope::new(&values, data);
        let label = self.label(name, &used);
        self.within.push(name.to_owned());
        let steps = self.steps(bundle.steps, &scope).await;
        self.within.pop();
        let mut steps = steps?;
        named(&label, &mut steps);
        for loaded in &mut steps {
            inherit(&mut loaded.step, &used);
        }
        Some(steps)
    }

    fn find(&mut self, name: &str, at: &Range<usize>) -> Option<Bundle<'r>> {
        let root = self.sources.name().to_owned();
        let beside = self.sources.locate(at).and_then(|(source, _)| {
            let folder = source.folder.as_deref()?;
            bundle::find(name, folder, &source.name)
        });
        let found = beside.or_else(|| bundle::find(name, self.folder, &root));
        let Some((called, place)) = found else {
            let fault = Fault::new(at.clone(), format!("there is no bundle `{name}`"));
            self.faults
                .push(fault.hint(bundle::suggestion(name, self.folder)));
            return None;
        };
        bundle::read(&called, &place, self.texts, self.sources, self.faults)
    }

    /// What the steps of this use of a bundle are called.
    fn label(&mut self, name: &str, used: &Step) -> String {
        if let Some(name) = &used.name {
            return name.get_ref().clone();
        }
        let count = self.unnamed.entry(name.to_owned()).or_default();
        *count += 1;
        match count {
            1 => name.to_owned(),
            n => format!("{name}-{n}"),
        }
    }
}

/// Names a bundle's steps after the bundle, so that a report says where they come from.
fn named(label: &str, steps: &mut [Loaded]) {
    let alone = steps.len() == 1;
    for (index, loaded) in steps.iter_mut().enumerate() {
        let own = loaded.step.name.as_ref().map(|name| name.get_ref().clone());
        let name = match own {
            _ if alone => label.to_owned(),
            Some(own) => format!("{label}: {own}"),
            None => format!("{label}: {}", index + 1),
        };
        let span = loaded
            .step
            .name
            .as_ref()
            .map_or(loaded.span.clone(), Spanned::span);
        loaded.step.name = Some(Spanned::new(span, name));
    }
}

/// What is said where a bundle is used holds for all its steps.
fn inherit(step: &mut Step, used: &Step) {
    for (name, value) in &used.env {
        step.env.insert(name.clone(), value.clone());
    }
    for name in &used.secrets {
        if !step
            .secrets
            .iter()
            .any(|own| own.get_ref() == name.get_ref())
        {
            step.secrets.push(name.clone());
        }
    }
    step.finally |= used.finally;
    if let Some(used) = &used.only_on {
        let own = step.only_on.get_or_insert_with(|| used.clone());
        let both = own
            .get_ref()
            .iter()
            .filter(|target| used.get_ref().contains(target));
        *own = Spanned::new(own.span(), both.copied().collect());
    }
    if used.cache.is_some() {
        step.cache = used.cache;
    }
}
