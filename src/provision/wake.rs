//! What a guest needs first when its memory was restored: the time, and randomness that no other machine restored from
//! the same memory has.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Guest;
use crate::error::{Context, Error, Result};
use crate::ssh::{Exec, Session, Stdin, as_root};

/// Forgets that the package lists were new (see packages.rs). Sets the clock to `$1`, mixes stdin into the kernel's random pool, and has the generator take a new key from it at
/// once: by itself it does so only after minutes, and a new VM generation id does nothing where the kernel has no driver for
/// it. 0x5207 is RNDRESEEDCRNG (linux/random.h).
const WAKE: &str = r#"
set -eu
[ ! -e /run/imgbuild/apt-updated ] || rm /run/imgbuild/apt-updated
date -s "@$1" >/dev/null 2>&1 || date -s "@${1%.*}" >/dev/null
if command -v perl >/dev/null; then
    perl -e 'open(my $r, ">", "/dev/urandom") or die "$!"; $/ = undef; my $e = <STDIN>; syswrite($r, $e) or die "$!"; ioctl($r, 0x5207, 0) or die "$!"'
else
    cat >/dev/urandom
    python3 -c 'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)'
fi
"#;

/// Bytes that are mixed in: as many as the kernel's pool has room for.
const ENTROPY: usize = 512;

/// Fails if the guest cannot be given new randomness; it must not be used then.
pub(super) async fn wake<S: Session>(guest: &mut Guest<'_, S>) -> Result<()> {
    let doing = || "waking a restored guest";
    let mut entropy = vec![0; ENTROPY];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut entropy);
    filled.map_err(|_| Error::new(doing()).cause("the system gave no random bytes"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).doing(doing)?;
    let command = as_root(WAKE, &[&format!("{:.3}", now.as_secs_f64())]);
    let mut said = vec![];
    let mut output = |bytes: &[u8]| {
        said.extend_from_slice(bytes);
        std::ops::ControlFlow::Continue(())
    };
    let exec = Exec {
        command: &command,
        stdin: Stdin::Bytes(entropy),
        output: &mut output,
    };
    let ended = guest.session.exec(exec).await?;
    match ended.is_success() {
        true => Ok(()),
        false => Err(Error::new(doing())
            .cause(ended)
            .detail("what the guest said", String::from_utf8_lossy(&said).trim())),
    }
}
