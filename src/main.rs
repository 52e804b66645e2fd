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
use tokio::sync::oneshot;
use tokio::time::timeout;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    let screen = Screen {
        format: cli.global.format(),
    };
    let (announcer, interrupt) = interrupt::channel();
    if let Err(error) = hear_signals(announcer) {
        screen.error(None, &Error::new("catching signals").cause(error));
        return ExitCode::FAILURE;
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
/// file or a lock: then the third signal can still give up.
fn hear_signals(announcer: Announcer) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let signals = Signals::catch()?;
    drop(entered);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(signals.announce(announcer)))?;
    Ok(())
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

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.int.recv() => Signal::Int,
            _ = self.term.recv() => Signal::Term,
        }
    }

    /// The first signal ends the work in order, the second is told that this is under way, the third gives up on it.
    async fn announce(mut self, announcer: Announcer) -> ! {
        let first = self.next().await;
        tell("stopping: cleaning up").await;
        announcer.announce(first);
        self.next().await;
        tell("still cleaning up; once more leaves the rest to `imgbuild gc`").await;
        self.next().await;
        let kind = match first {
            Signal::Int => Kind::Interrupted,
            Signal::Term => Kind::Terminated,
        };
        std::process::exit(kind.exit_code().into())
    }
}

/// Says something on stderr. A terminal or pipe that does not take it, or is gone, must not keep anybody from stopping.
async fn tell(text: &'static str) {
    let (told, is_told) = oneshot::channel();
    let telling = std::thread::Builder::new().spawn(move || {
        let _ = writeln!(io::stderr(), "{text}");
        let _ = told.send(());
    });
    if telling.is_ok() {
        let _ = timeout(Duration::from_millis(200), is_told).await;
    }
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
        // It would tell by panicking that stderr is gone.
        .log_internal_errors(false)
        .init();
}
