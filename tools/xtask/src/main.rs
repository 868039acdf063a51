//! `cargo xtask`: reads the subcommand and hands over to its module.

use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::checkout::Checkout;
use xtask::{ci, deny, lab, map, packages, passthrough, statics, test, tidy};

const USAGE: &str = "\
cargo xtask <command>

Try it
  up [--detach] [--reset]   install what is missing, build, start everything, run one VM
     [--hosts N]            on 1 to 8 hosts, with a VM on each
  status                    what runs
  drill                     break what runs in every way and time its return
  down                      stop everything

Work on it
  test [filters]            every test; filters and options go to cargo nextest
  ci                        what a change must pass: fmt, tidy, clippy, deny, tests, frozen artefacts
  tidy                      the house rules: walls, limits, names
  deny                      banned crates, licences, sources
  map                       the house and its walls, from the crates' own descriptions
  statics                   the programs that run in foreign images, linked statically
  packages                  install the Debian packages that up and test need
  bench [args]              measure, beside the floor of the same machine
  soak [args]               run for long under faults
  soak --krt [commits]      ten million commits on the engine alone, with memory that must stay flat
  soak --migrations [n]     faults of real migrations, at n points for whoever may fail (10)
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether the command found everything in order; what was wrong has then been printed already.
fn run() -> Result<bool> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let checkout = Checkout::find()?;
    match command.as_str() {
        "up" | "drill" | "down" | "status" => lab::run(&checkout, &command, &rest),
        "test" => test::run(&checkout, &rest),
        "ci" => ci::run(&checkout),
        "tidy" => tidy::run(&checkout.root),
        "deny" => deny::run(&checkout),
        "map" => {
            print!("{}", map::render(&checkout.root)?);
            Ok(true)
        }
        "statics" => statics::run(&checkout),
        "packages" => packages::ensure_packages(&checkout.target).map(|()| true),
        "bench" | "soak" => passthrough::run(&checkout, &command, &rest),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(true)
        }
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    }
}
