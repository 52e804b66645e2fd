//! Signals and exit codes; a table of contents.

use std::process::ExitCode;

use clap::Parser;
use imgbuild::cli::Cli;
use imgbuild::error::{Error, Kind};
use imgbuild::run::interrupt::{self, Announcer, Signal};
use imgbuild::ui::Screen;
use tokio::signal::unix::{self, SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    let screen = Screen {
        format: cli.global.format(),
    };
    // One thread drives everything: children that die with their parent die with the thread that started them, so that
    // must be one that lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(work(cli));
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

async fn work(cli: Cli) -> Result<(), Error> {
    let (announcer, interrupt) = interrupt::channel();
    if let Err(error) = hear_signals(announcer) {
        eprintln!("warning: signals cannot be caught: {error}");
    }
    cli.run(&interrupt).await
}

/// Signals are caught when this returns. They are heard on a thread of their own, since the one that works may be waiting for a
/// file or a lock: then the third can still give up.
fn hear_signals(announcer: Announcer) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let signals = {
        let _entered = runtime.enter();
        Signals::catch()?
    };
    let hear = move || runtime.block_on(signals.announce(announcer));
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(hear)?;
    Ok(())
}

struct Signals {
    int: unix::Signal,
    term: unix::Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Signals {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// The first signal ends the work in order, the second is told that this is under way, the third gives up on it.
    async fn announce(mut self, announcer: Announcer) {
        loop {
            let (came, kind) = tokio::select! {
                _ = self.int.recv() => (Signal::Int, Kind::Interrupted),
                _ = self.term.recv() => (Signal::Term, Kind::Terminated),
            };
            match announcer.announce(came) {
                1 => eprintln!("stopping: removing what this build has made"),
                2 => eprintln!("still cleaning up; once more leaves the rest to `imgbuild gc`"),
                _ => std::process::exit(kind.exit_code().into()),
            }
        }
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
        .init();
}
