//! The layers of one build: those it begins with, and those that it makes.
//!
//! The machine always writes to the disk of a *draft*. A cut makes that disk immutable and begins the next draft; the facts of
//! the one before are taken, and it is published, beside the next step.

mod pending;
mod reuse;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::choice::Way;
use crate::backend::qemu::{Cut, Machine, Saved};
use crate::error::{Context, Error, Result};
use crate::pipeline::{Caching, SshGuest};
use crate::plan::{Key, Keys, Plan, Step};
use crate::run::Run;
use crate::store::layers::{Draft, Held, Layers, Manifest, Memory, files};
use crate::store::space;
use pending::{Pending, resource};

/// Saving RAM must be less than this part of the work that it may save.
const WORTH: f64 = 0.5;

/// What saving RAM is taken to cost before it was done once.
const FIRST_SAVE: Duration = Duration::from_secs(1);

/// What a build needs to know to work with layers.
pub(super) struct Setting<'b> {
    pub plan: &'b Plan,
    pub run: &'b Run,
    pub keys: &'b Keys,
    pub caching: &'b Caching,
    /// The base image.
    pub base: &'b Path,
    /// The size of the disk in bytes.
    pub size: u64,
    /// What saved RAM must fit.
    pub memory_key: String,
}

/// The layers of one build.
pub(super) struct Stack<'b> {
    set: Setting<'b>,
    layers: Layers,
    dead: BTreeSet<String>,
    dead_memory: BTreeSet<String>,
    /// What the present draft is an overlay of.
    below: Option<Below>,
    /// Keeps the newest layer of the chain, and so all of it.
    held: Option<Held>,
    draft: Option<Draft>,
    drafts: usize,
    pending: Option<Pending>,
    /// Whether layers are made.
    writes: bool,
    /// Work that is in no saved RAM.
    unsaved: Duration,
    save_took: Duration,
    /// Whether the guest has what it takes to go on from saved RAM.
    can_wake: bool,
    /// When the first of the steps that are done wants to be done again.
    pub expires: Option<Timestamp>,
}

#[derive(Clone)]
struct Below {
    id: String,
    key: String,
    /// The key of what it came after.
    parent_key: Option<String>,
    root: String,
}

impl<'b> Stack<'b> {
    pub fn new(set: Setting<'b>) -> Self {
        Stack {
            layers: Layers::new(&set.run.dirs),
            writes: *set.caching != Caching::Off,
            set,
            dead: BTreeSet::new(),
            dead_memory: BTreeSet::new(),
            below: None,
            held: None,
            draft: None,
            drafts: 0,
            pending: None,
            unsaved: Duration::ZERO,
            save_took: FIRST_SAVE,
            can_wake: false,
            expires: None,
        }
    }

    /// A new folder for the disk that a machine is to write to.
    pub fn new_draft(&mut self) -> Result<Draft> {
        let draft = self
            .layers
            .draft(format!("{}-{}", self.set.run.id, self.drafts));
        self.drafts += 1;
        self.set.run.guard(resource(&draft))?;
        draft.create()?;
        self.draft = Some(draft.clone());
        Ok(draft)
    }

    /// After a step that has uploaded something else than the plan knows: no layer is made of it.
    pub fn not_as_planned(&mut self, step: &Step) -> Result<()> {
        let changed = Error::new(format!("step `{}`", step.name));
        self.stop(&changed.cause("what it uploads was made anew by a `local` step"))
    }

    /// After a step, or the boot, that took so long: makes a layer of what the machine is now, if this is wanted.
    pub async fn keep(
        &mut self,
        steps: usize,
        took: Duration,
        machine: &mut Machine,
        guest: &mut SshGuest<'_>,
    ) -> Result<()> {
        let keys = self.set.keys;
        let Some(key) = keys.chain.iter().find(|key| key.steps == steps) else {
            return Ok(());
        };
        self.unsaved += took;
        self.note_expiry(&key.key, Timestamp::now());
        let same = self.below.as_ref();
        match same.is_some_and(|below| below.key == key.key) {
            true => Ok(()),
            false => self.make(key, took, Timestamp::now(), machine, guest).await,
        }
    }

    /// After booting a layer's disk, which took so long, because its RAM was of no use: makes the same layer once more, with
    /// RAM, so that the next build need not boot.
    pub async fn renew(
        &mut self,
        way: &Way,
        boot: Duration,
        machine: &mut Machine,
        guest: &mut SshGuest<'_>,
    ) -> Result<()> {
        let keys = self.set.keys;
        let key = keys.chain.iter().find(|key| key.steps == way.steps);
        let (Some(key), Some(last)) = (key, way.chain.last()) else {
            return Ok(());
        };
        self.unsaved += boot;
        if !self.is_memory_worth_it(key) {
            return Ok(());
        }
        let took = Duration::from_secs_f64(last.manifest.took);
        self.make(key, took, last.manifest.created, machine, guest)
            .await
    }

    /// Makes a layer of what the machine is now, and goes on above it.
    async fn make(
        &mut self,
        key: &Key,
        took: Duration,
        created: Timestamp,
        machine: &mut Machine,
        guest: &mut SshGuest<'_>,
    ) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        // What goes wrong with a layer is no reason to lose a build.
        if let Err(error) = self.published().await {
            return self.stop(&error);
        }
        let Some(draft) = self.draft.take() else {
            return Ok(());
        };
        // The machine is not touched before all is ready.
        let next = async {
            self.can_wake = guest.sync().await?;
            let next = self.new_draft()?;
            let disk = next.file(files::DISK);
            machine.make_next(&disk, self.set.size).await?;
            Ok(next)
        };
        let next = match next.await {
            Ok(next) => next,
            Err(error) => return self.stop(&error),
        };
        let saved = self.cut(key, &draft, &next, machine).await?;
        let manifest = self.manifest(key, &draft, took, created, saved, guest);
        let resource = resource(&draft);
        self.pending = Some(Pending::start(
            self.layers.clone(),
            draft,
            manifest,
            resource,
        ));
        Ok(())
    }

    /// Makes no more layers in this build.
    fn stop(&mut self, error: &Error) -> Result<()> {
        let text = format!("no more layers are made in this build: {error}");
        self.set.run.events.warn(text);
        self.writes = false;
        Ok(())
    }

    async fn cut(
        &mut self,
        key: &Key,
        draft: &Draft,
        next: &Draft,
        machine: &mut Machine,
    ) -> Result<Option<Saved>> {
        let memory = draft.file(files::MEMORY);
        let cut = Cut {
            next: &next.file(files::DISK),
            variables: &draft.file(files::VARIABLES),
            memory: self.is_memory_worth_it(key).then_some(memory.as_path()),
        };
        let began = Instant::now();
        let run = self.set.run;
        let done = match cut.memory {
            Some(_) => run.phase("save memory", machine.cut(cut)).await?,
            None => machine.cut(cut).await?,
        };
        match done {
            None => Ok(None),
            Some(Ok(saved)) => {
                self.save_took = began.elapsed();
                self.unsaved = Duration::ZERO;
                Ok(Some(saved))
            }
            Some(Err(error)) => {
                let text = format!("the layer is made without memory: {error}");
                run.events.warn(text);
                match std::fs::remove_file(&memory) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(error).doing(|| format!("removing {}", memory.display()))
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// The RAM right after the boot serves every build on the same base. Any other must pay.
    fn is_memory_worth_it(&self, key: &Key) -> bool {
        let pays = key.steps == 0 || self.save_took < self.unsaved.mul_f64(WORTH);
        let room = || {
            let free = space::free(&self.set.run.dirs.cache);
            free.is_ok_and(|free| free > 2 * self.set.plan.machine.memory)
        };
        pays && self.can_wake && !key.secret && room()
    }

    /// The facts of the layer that the next one will be an overlay of.
    fn manifest(
        &mut self,
        key: &Key,
        draft: &Draft,
        took: Duration,
        created: Timestamp,
        saved: Option<Saved>,
        guest: &SshGuest<'_>,
    ) -> Manifest {
        let below = self.below.clone();
        let root = below
            .as_ref()
            .map_or(&draft.id, |below| &below.root)
            .clone();
        let parent_key = below.as_ref().and_then(|below| match below.key == key.key {
            true => below.parent_key.clone(),
            false => Some(below.key.clone()),
        });
        self.below = Some(Below {
            id: draft.id.clone(),
            key: key.key.clone(),
            parent_key: parent_key.clone(),
            root: root.clone(),
        });
        Manifest {
            key: key.key.clone(),
            parent: below.map(|below| below.id),
            root,
            base: self.set.base.to_string_lossy().into_owned(),
            image: self.set.plan.name.clone(),
            name: key.name.clone(),
            inputs: key.inputs.clone(),
            parent_key,
            created,
            took: took.as_secs_f64(),
            recorded: guest.recorded.clone(),
            files: BTreeMap::new(),
            memory: saved.map(|saved| Memory {
                key: self.set.memory_key.clone(),
                sha256: saved.sha256,
                size: saved.size,
            }),
            size: 0,
        }
    }

    /// Waits until the last layer that was made is published.
    async fn published(&mut self) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            let (held, resource) = pending.end().await?;
            self.set.run.release(&resource)?;
            self.held = Some(held);
        }
        Ok(())
    }

    /// At the end of the build, however it ended: publishes what is left to publish, and makes room.
    pub async fn finish(mut self) -> Result<()> {
        let published = self.published().await;
        self.held = None;
        published?;
        match self.writes {
            true => self.layers.evict(self.layers.limit()?).map(drop),
            false => Ok(()),
        }
    }

    fn note_expiry(&mut self, key: &str, done: Timestamp) {
        let key = self.set.keys.chain.iter().find(|other| other.key == key);
        let age = key.and_then(|key| key.max_age);
        let end = age.and_then(|age| done.checked_add(age).ok());
        self.expires = self.expires.into_iter().chain(end).min();
    }
}
