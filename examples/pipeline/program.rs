//! `pipeline`: publish events, run commands at them, and ask for their output.

mod args;
mod asked;
mod codes;
mod display;
mod documents;
mod events;
mod follow;
mod groups;
mod help;
mod human;
mod keep;
mod places;
mod query;
mod runs;
mod screen;
mod signals;
mod stream;
mod terminal;
mod usage;
mod values;
mod work;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use args::{Cli, Command};
use codes::{DONE, Done, Failure, of_error};
use documents::ErrorDocument;
use places::Places;
use pubsub_pipeline::{Error, ErrorKind};
use screen::{Form, Screen};
use signals::Signals;
use usage::Refused;

const USAGE: u8 = 2;

/// Runs the program that the command line asks for; what it answers is the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let words = match std::env::args_os().map(OsString::into_string).collect::<Result<Vec<_>, _>>() {
        Ok(words) => values::hoisted(words),
        Err(_) => return usage(Form::Text, "every word of the command line is UTF-8"),
    };
    // Known before clap can say it: a wrong command line is told in the form that was asked for.
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let form = if json { Form::Json } else { Form::Text };
    let cli = match usage::parsed(&words) {
        Ok(cli) => cli,
        Err(Refused::Wrong(text)) => return usage(form, &text),
        Err(Refused::Shown(error)) if error.use_stderr() && form == Form::Json => {
            return usage(form, error.render().to_string().trim_end());
        }
        Err(Refused::Shown(error)) => {
            // Where nobody reads the help, that is no failure.
            let _ = error.print();
            let _ = std::io::stdout().flush();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return ended(form, Err(Error::new(ErrorKind::Internal, "start").with_source(e).into())),
    };
    let done = runtime.block_on(until_asked(cli, form));
    // Whatever still blocks a thread (a pipe that nobody reads, a slow disk) must not keep the program.
    runtime.shutdown_background();
    ended(form, done)
}

/// Runs the subcommand until it is done or a signal ends the program. Those that run commands take the signals
/// themselves.
async fn until_asked(cli: Cli, form: Form) -> Done {
    let mut signals = Signals::new()?;
    if matches!(cli.command, Command::Work(_) | Command::Stream(_)) {
        return subcommand(cli, form, Some(signals)).await;
    }
    // In a task of its own, so that a write which blocks does not keep the signals away.
    let mut running = tokio::spawn(subcommand(cli, form, None));
    tokio::select! {
        done = &mut running => done.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Internal, "the subcommand panicked").with_source(e).into())
        }),
        asked = signals.next() => Ok(asked.code()),
    }
}

async fn subcommand(cli: Cli, form: Form, signals: Option<Signals>) -> Done {
    let places = Places::new(&cli.global)?;
    let mut screen = Screen::new(form)?;
    let to = &mut screen;
    let code = match (&cli.command, signals) {
        (Command::Work(args), Some(signals)) => work::work(&places, to, args, signals).await,
        (Command::Stream(args), Some(signals)) => stream::stream(&places, to, args, signals).await,
        (Command::Publish(args), _) => events::publish(&places, to, args).await,
        (Command::GetStatus(args), _) => query::get_status(&places, to, args).await,
        (Command::GetLogs(args), _) => query::get_logs(&places, to, args).await,
        (Command::StreamLogs(args), _) => follow::stream_logs(&places, to, args).await,
        (Command::Search(args), _) => query::search(&places, to, args).await,
        (Command::Verify(args), _) => keep::verified(&places, to, args).await,
        (Command::Export(args), _) => keep::export(&places, to, args).await,
        (Command::Copy(args), _) => keep::copied(&places, to, args).await,
        (Command::Remove(args), _) => keep::remove(&places, to, args).await,
        (Command::Expire(args), _) => keep::expire(&places, to, args).await,
        (Command::Wait(args), _) => events::waited(&places, to, args).await,
        (Command::List(args), _) => query::list(&places, to, args).await,
        (Command::Cancel(args), _) => events::cancel(&places, to, args).await,
        (Command::Spool, _) => keep::spooled(&places, to).await,
        (Command::DeadLetters(args), _) => events::dead_letters(&places, to, args).await,
        (Command::Groups(args), _) => groups::groups(&places, to, args).await,
        (Command::Work(_) | Command::Stream(_), None) => {
            Err(Error::new(ErrorKind::Internal, "this subcommand takes the signals").into())
        }
    };
    // What was found before an error is shown before it.
    let flushed = screen.flush();
    let code = code?;
    flushed?;
    Ok(code)
}

fn ended(form: Form, done: Done) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Failure::PipeClosed) => ExitCode::from(DONE),
        Err(Failure::Error(error)) => {
            screen::error(form, &error);
            ExitCode::from(of_error(error.kind()))
        }
    }
}

fn usage(form: Form, message: &str) -> ExitCode {
    match form {
        Form::Json => screen::aside_document(&ErrorDocument::usage(message.to_owned())),
        Form::Text => screen::aside(message),
    }
    ExitCode::from(USAGE)
}

/// What the libraries say goes to standard error: warnings, or what `RUST_LOG` asks for.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .without_time()
        .with_target(false)
        .init();
}
