//! Signals and exit codes; a table of contents.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use imgbuild::cli::Cli;
use imgbuild::error::{Error, Kind};
use imgbuild::run::interrupt::{self, Announcer, Signal};
use imgbuild::ui::Screen;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::timeout;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    let screen = Screen {
        format: cli.global.format(),
    };
    let (announcer, interrupt) = interrupt::channel();
    if let Err(error) = hear_signals(announcer) {
        screen.note(&format!("signals cannot be caught: {error}"));
    }
    // One thread works and starts all programs: those that die with their parent die with the thread that started them, so
    // that must be one that lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(cli.run(&interrupt));
            // Reads that block for ever (a lock somebody else holds) must not hold up the end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Error::new("starting").cause(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_told() {
                screen.error(None, &error);
            }
            ExitCode::from(error.get_kind().exit_code())
        }
    }
}

/// Signals are caught when this returns. They are heard on a thread of their own, since the one that works may be waiting for a
/// file, a lock or stdin: then the third signal can still give up.
fn hear_signals(announcer: Announcer) -> io::Result<()> {
    let (caught, is_caught) = std::sync::mpsc::channel();
    let hear = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let hearing = runtime.and_then(|runtime| {
            let entered = runtime.enter();
            let signals = Signals::catch()?;
            drop(entered);
            Ok((runtime, signals))
        });
        match hearing {
            Ok((runtime, signals)) => {
                let _ = caught.send(Ok(()));
                runtime.block_on(signals.announce(announcer));
            }
            Err(error) => drop(caught.send(Err(error))),
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(hear)?;
    is_caught.recv().map_err(io::Error::other)?
}

struct Signals {
    int: unix::Signal,
    term: unix::Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Signals {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// The first signal ends the work in order, the second is told that this is under way, the third gives up on it.
    async fn announce(mut self, announcer: Announcer) {
        for count in 1.. {
            let (came, kind) = tokio::select! {
                _ = self.int.recv() => (Signal::Int, Kind::Interrupted),
                _ = self.term.recv() => (Signal::Term, Kind::Terminated),
            };
            match count {
                1 => tell("stopping: cleaning up").await,
                2 => tell("still cleaning up; once more leaves the rest to `imgbuild gc`").await,
                _ => std::process::exit(kind.exit_code().into()),
            }
            announcer.announce(came);
        }
    }
}

/// Says something on stderr. A terminal or pipe that does not take it, or is gone, must not keep anybody from stopping.
async fn tell(text: &'static str) {
    let telling = tokio::task::spawn_blocking(move || {
        let _ = writeln!(io::stderr(), "{text}");
    });
    let _ = timeout(Duration::from_millis(200), telling).await;
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "imgbuild=debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(imgbuild::ui::colours())
        .init();
}
