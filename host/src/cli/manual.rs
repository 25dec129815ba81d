//! What a shell and `man` are told of the command: made from the arguments themselves.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::Failure;
use super::args::{Cli, CompletionsArgs, ManArgs};

/// `reseat completions`
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    written(&completing(args.shell))
}

/// `reseat man`
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    written(&page(args.command.as_deref())?)
}

fn completing(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "reseat", &mut script);
    script
}

/// The page of the whole command, or of one of its subcommands.
fn page(subcommand: Option<&str>) -> Result<Vec<u8>, Failure> {
    let mut whole = Cli::command();
    whole.build();
    let of: Command = match subcommand {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name).cloned();
            found.ok_or_else(|| anyhow::anyhow!("there is no command `{name}`"))?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(of).render(&mut page)?;
    Ok(page)
}

fn written(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Unread),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn shown() -> Vec<String> {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn completions_for_every_shell_name_every_subcommand() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completing(*shell)).unwrap();
            for name in shown() {
                assert!(script.contains(&name), "{shell}: {name}");
            }
        }
    }

    #[test]
    fn the_page_names_every_subcommand_and_each_has_one_of_its_own() {
        let whole = String::from_utf8(page(None).unwrap()).unwrap();
        assert!(whole.contains("Exit codes"), "{whole}");
        for name in shown() {
            assert!(whole.contains(&format!("reseat\\-{name}(1)")), "{name}: {whole}");
            let own = String::from_utf8(page(Some(&name)).unwrap()).unwrap();
            assert!(own.contains("SYNOPSIS") && own.contains(&name), "{own}");
        }
        assert!(page(Some("fly")).is_err());
    }
}
