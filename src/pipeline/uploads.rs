//! Whether what is uploaded is what will be said of it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::plan::{Action, Plan, Role, Step, Uploaded};
use crate::recipe::Tree;

/// What steps of one build have uploaded. Steps are counted as [`Plan::all_steps`] does.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// What is another than when the plan was made, since a `local` step came before it.
    remade: BTreeMap<usize, Uploaded>,
    /// Whether a `local` step was done, which may make what is uploaded after it.
    local: bool,
}

impl Uploads {
    /// Before a step is done: what it is going to upload; `None` if it uploads nothing.
    pub fn before(&mut self, at: usize, step: &Step) -> Result<Option<Uploaded>> {
        match (&step.action, step.role) {
            // An image is told what it is made of before its tests are run, so none of them may change that.
            (Action::Local { .. }, Role::Step) => {
                self.local = true;
                Ok(None)
            }
            (Action::Upload { tree, .. }, Role::Step) if self.local => {
                Uploaded::read(tree).map(Some)
            }
            (Action::Upload { .. }, _) => {
                let remade = self.remade.get(&at);
                Ok(Some(remade.cloned().unwrap_or_else(|| step.uploaded())))
            }
            _ => Ok(None),
        }
    }

    /// After it: what it has uploaded must still be there, or nobody knows what is in the guest. Returns whether it is what
    /// the plan knows.
    pub fn after(&mut self, at: usize, step: &Step, before: Option<Uploaded>) -> Result<bool> {
        let (Action::Upload { tree, .. }, Some(before)) = (&step.action, before) else {
            return Ok(true);
        };
        let now = Uploaded::read(tree);
        if now.as_ref().ok() != Some(&before) {
            let now = now.unwrap_or_default();
            return Err(changed(step, tree, &before, &now));
        }
        let as_planned = before == step.uploaded();
        if !as_planned {
            self.remade.insert(at, before);
        }
        Ok(as_planned)
    }

    /// Before what the image is made of is put together: looks at what the tests will upload, if that may have changed.
    pub fn look_at_tests(&mut self, plan: &Plan) -> Result<()> {
        for (at, step) in plan.all_steps().enumerate().filter(|_| self.local) {
            if let (Action::Upload { tree, .. }, Role::Test) = (&step.action, step.role) {
                let now = Uploaded::read(tree)?;
                if now != step.uploaded() {
                    self.remade.insert(at, now);
                }
            }
        }
        Ok(())
    }

    /// Whether everything was what the plan knows.
    pub fn as_planned(&self) -> bool {
        self.remade.is_empty()
    }

    /// All steps of the plan, with what they have really uploaded.
    pub fn steps(&self, plan: &Plan) -> Vec<Step> {
        let steps = plan.all_steps().enumerate();
        steps
            .map(|(at, step)| match self.remade.get(&at) {
                Some(content) => step.with_content(content),
                None => step.clone(),
            })
            .collect()
    }
}

fn changed(step: &Step, tree: &Tree, before: &Uploaded, now: &Uploaded) -> Error {
    let other = before.files.iter().find(|file| !now.files.contains(file));
    let path = tree.locate(other.map_or(Path::new(""), |(path, _)| path));
    let path = path.display();
    Error::new(format!("{} `{}`", step.role.name(), step.name))
        .cause(format!("{path}, which it uploads, was changed while the image was built"))
        .hint("run the build again; what a recipe makes itself is made by a `local` step before its upload")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::plan::Facts;
    use crate::recipe::{self, NoWeb, Overrides};
    use futures_util::FutureExt;

    fn plan(folder: &Path, steps: &str) -> Plan {
        std::fs::write(folder.join("a"), "planned").unwrap();
        let text = format!("[image]\nname = 'x'\n[source]\nfile = 'base.qcow2'\n{steps}");
        let overrides = Overrides::default();
        let recipes = recipe::parse("x.toml", &text, folder, &overrides, &NoWeb);
        let recipes = recipes.now_or_never().unwrap().unwrap();
        let facts = Facts::gather(&recipes[0], None, None).unwrap();
        Plan::new(&recipes[0], &facts)
    }

    const UPLOAD: &str = "[[step]]\nname = 'put'\nupload = { from = 'a', to = '/a' }\n";
    const LOCAL: &str = "[[step]]\nlocal = 'make'\n";
    const TEST: &str = "[[test]]\nname = 'try'\nupload = { from = 'a', to = '/a' }\n";

    /// Does all steps; `each` is done between the beginning and the end of each.
    fn done(plan: &Plan, mut each: impl FnMut(&Step)) -> Result<Uploads> {
        let mut uploads = Uploads::default();
        for (at, step) in plan.all_steps().enumerate() {
            if step.role == Role::Test {
                uploads.look_at_tests(plan)?;
            }
            let before = uploads.before(at, step)?;
            each(step);
            uploads.after(at, step, before)?;
        }
        Ok(uploads)
    }

    fn sha256(steps: &[Step], name: &str) -> String {
        let step = steps.iter().find(|step| step.name == name).unwrap();
        step.files[0].1.clone()
    }

    #[test]
    fn a_file_that_changes_during_the_build_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let plan = plan(folder.path(), UPLOAD);
        let uploads = done(&plan, |_| {}).unwrap();
        assert!(uploads.as_planned());
        let error = done(&plan, |_| std::fs::write(&path, "another").unwrap()).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Operation);
        let text = error.to_string();
        assert!(text.contains("step `put`"), "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        std::fs::remove_file(&path).unwrap();
        done(&plan, |_| {}).unwrap_err();
    }

    #[test]
    fn what_a_local_step_makes_is_told_as_it_was_uploaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let plan = plan(folder.path(), &format!("{LOCAL}{UPLOAD}{TEST}"));
        let make = |step: &Step| {
            if matches!(step.action, Action::Local { .. }) {
                std::fs::write(&path, "made").unwrap();
            }
        };
        let uploads = done(&plan, make).unwrap();
        assert!(!uploads.as_planned());
        let steps = uploads.steps(&plan);
        let made = crate::provenance::digests(b"made")["sha256"].clone();
        assert_eq!(sha256(&steps, "put"), made);
        assert_eq!(sha256(&steps, "try"), made);
        assert_ne!(steps[1].digest, plan.steps[1].digest);
        assert_eq!(steps[0].digest, plan.steps[0].digest);
        let meanwhile = |step: &Step| {
            if step.name == "put" {
                std::fs::write(&path, "made again").unwrap();
            }
        };
        done(&plan, meanwhile).unwrap_err();
    }

    #[test]
    fn a_local_step_that_comes_later_excuses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let plan = plan(folder.path(), &format!("{UPLOAD}{LOCAL}"));
        std::fs::write(&path, "another").unwrap();
        done(&plan, |_| {}).unwrap_err();
    }
}
