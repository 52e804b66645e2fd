//! Where images are built: what is another thing in each place, phase by phase.

use std::time::Duration;

use super::bench::Made;
use super::{Artifact, SshGuest, attest};
use crate::error::Result;
use crate::plan::Step;
use crate::provenance::sbom::Inventory;
use crate::provenance::statement::Reading;
use crate::seal::{self, Evidence};
use crate::seed::Identity;
use crate::ssh::Login;

/// A machine that is worked in.
pub(super) trait Machine {
    /// Does some work in its guest, and ends it when the machine does.
    async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T>;
}

/// A guest that can be worked in.
pub(super) struct Begun<'b, M> {
    pub machine: M,
    pub guest: SshGuest<'b>,
    pub identity: Identity,
    /// How many of the plan's steps it has behind it.
    pub steps: usize,
}

/// What was found out about the sealed disk, and the file that the image is.
pub(super) struct Judged {
    pub audit: seal::Report,
    /// Who read the disk for all of this.
    pub by: Reading,
    pub inventory: Inventory,
    pub made: Made,
    /// The image's name and the sha256 of its disk, where the file is not that itself.
    pub disk: Option<(String, String)>,
}

/// What sealing removes, and what must not be found afterwards.
pub(super) struct Sealing {
    pub plan: seal::Plan,
    pub evidence: Evidence,
}

/// A place where images are built.
pub(super) trait Place<'b> {
    type Machine: Machine;
    /// A disk that is sealed and does not change any more.
    type Sealed;

    /// Brings up a guest, from the deepest layer that there is. `login` becomes how somebody else can log in to it.
    async fn begin(&mut self, login: &mut Option<Login>) -> Result<Begun<'b, Self::Machine>>;

    /// After so many steps, the last of which took so long: makes a layer, if it is worth it.
    async fn keep(
        &mut self,
        steps: usize,
        took: Duration,
        begun: &mut Begun<'b, Self::Machine>,
        login: &mut Option<Login>,
    ) -> Result<()>;

    /// After a step that has uploaded something else than the plan knows: no layer is made of it.
    fn not_as_planned(&mut self, step: &Step) -> Result<()>;

    /// Makes ready what needs a login, before the guest is sealed: afterwards nobody can log in. Few places need that.
    async fn before_seal(&self, _begun: &mut Begun<'b, Self::Machine>) -> Result<()> {
        Ok(())
    }

    /// Powers the machine off, and leaves nothing of the build on its disk or beside it. A place may look at the disk here
    /// already, if it cannot later.
    async fn seal_off(&mut self, machine: Self::Machine, sealing: &Sealing)
    -> Result<Self::Sealed>;

    /// Looks at the sealed disk, and has it tested meanwhile or afterwards.
    async fn judge(
        &self,
        sealed: &Self::Sealed,
        sealing: &Sealing,
        tested: impl Future<Output = Result<()>>,
    ) -> Result<Judged>;

    /// Boots a clone of the sealed disk as its user would.
    async fn boot_clone(
        &self,
        sealed: &Self::Sealed,
        login: &mut Option<Login>,
    ) -> Result<(Self::Machine, SshGuest<'b>)>;

    /// Removes a machine.
    async fn destroy(&self, machine: Self::Machine) -> Result<()>;

    /// What the image's machine and tools are called in what is said of it.
    async fn tools(&self) -> Result<attest::Tools>;

    /// Gives everything its final name.
    async fn publish(
        &self,
        sealed: Self::Sealed,
        made: &Made,
        beside: attest::Beside,
    ) -> Result<Artifact>;

    /// When the first of the steps that are done wants to be done again.
    fn expires(&self) -> Option<jiff::Timestamp>;
}
