//! Publishing a layer beside the next step.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::error::{Context, Error, Result};
use crate::run::Resource;
use crate::store::layers::{self, Draft, Held, Layers, Manifest};

/// A layer that is being published on a thread. Dropping it keeps it from becoming one.
pub struct Pending {
    task: Option<JoinHandle<Result<Held>>>,
    cancelled: Arc<Mutex<bool>>,
    resource: Resource,
}

impl Pending {
    pub fn start(layers: Layers, draft: Draft, mut manifest: Manifest, resource: Resource) -> Self {
        let cancelled = Arc::new(Mutex::new(false));
        let flag = cancelled.clone();
        let work = move || {
            (manifest.files, manifest.size) = draft.facts()?;
            // Whoever removes the draft waits until it is known what it is.
            let cancelled = flag.lock().unwrap_or_else(PoisonError::into_inner);
            match *cancelled {
                true => Err(Error::new(format!("keeping the layer {}", draft.id))),
                false => layers.publish(&draft, &manifest),
            }
        };
        Pending {
            task: Some(tokio::task::spawn_blocking(work)),
            cancelled,
            resource,
        }
    }

    pub async fn end(mut self) -> Result<(Held, Resource)> {
        let doing = || "keeping a layer";
        let task = self.task.take().ok_or_else(|| Error::new(doing()))?;
        Ok((task.await.doing(doing)??, self.resource.clone()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        *self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// A draft goes with its build; a layer stays.
pub fn resource(draft: &Draft) -> Resource {
    Resource::Unfinished {
        path: draft.folder.clone(),
        mark: layers::MANIFEST.into(),
    }
}
