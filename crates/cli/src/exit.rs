//! How commands end: exit codes and what is said on stderr. The codes are stable; scripts rely on them.

use std::fmt::Write;

use gantry_types::{ErrorClass, Operation, OperationPhase, Problem, Resource};

use crate::output::printable;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The controller, or something on the way to it, said no.
    Problem(Problem),
    /// The operation ran and did not succeed.
    Operation(Box<Operation>),
    /// Something on this machine.
    Local(anyhow::Error),
    /// Several objects, several failures; all but the first have been reported.
    Several { first: Box<Failure>, count: usize },
    /// Ctrl-C; what was going on is told.
    Interrupted(String),
    /// The answer is "no" (a difference was found, a command of `lab exec` failed); nothing to report.
    Silent(u8),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Local(error)
    }
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(problem) => match problem.class {
                ErrorClass::Permanent => 1,
                ErrorClass::NotFound => 3,
                ErrorClass::Conflict => 4,
                ErrorClass::Denied | ErrorClass::Unauthenticated => 5,
                ErrorClass::Transient => 6,
                ErrorClass::Invalid => 7,
            },
            Self::Operation(_) | Self::Local(_) => 1,
            Self::Several { first, .. } => first.exit_code(),
            Self::Interrupted(_) => 130,
            Self::Silent(code) => *code,
        }
    }

    /// What goes to stderr, ending in a newline; empty if there is nothing to say.
    pub fn report(&self) -> String {
        match self {
            Self::Problem(problem) => report_problem("", problem),
            Self::Operation(operation) => report_operation(operation),
            Self::Local(error) => format!("error: {}\n", printable(&format!("{error:#}"))),
            Self::Several { count, .. } => format!("error: {count} objects failed\n"),
            Self::Interrupted(text) => format!("{text}\n"),
            Self::Silent(_) => String::new(),
        }
    }
}

fn report_problem(prefix: &str, problem: &Problem) -> String {
    let mut text = format!("error: {prefix}{}\n", printable(&problem.detail));
    for field in &problem.fields {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {}: {}", printable(&field.field), printable(&field.message));
    }
    if let Some(remedy) = &problem.remedy {
        let _ = writeln!(text, "  remedy: {}", printable(remedy));
    }
    text
}

fn report_operation(operation: &Operation) -> String {
    let (name, target) = (operation.name(), &operation.spec.target);
    if operation.status.phase == OperationPhase::Cancelled {
        return format!("error: operation {name} on {target} was cancelled\n");
    }
    let prefix = format!("operation {name} on {target} failed: ");
    match &operation.status.error {
        Some(problem) => report_problem(&prefix, problem),
        None => format!("error: {prefix}no reason was recorded\n  remedy: gantry operation show {name}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_their_codes() {
        let code = |class| Failure::from(Problem::new(class, "x", "y")).exit_code();
        assert_eq!(code(ErrorClass::Permanent), 1);
        assert_eq!(code(ErrorClass::NotFound), 3);
        assert_eq!(code(ErrorClass::Conflict), 4);
        assert_eq!(code(ErrorClass::Denied), 5);
        assert_eq!(code(ErrorClass::Unauthenticated), 5);
        assert_eq!(code(ErrorClass::Transient), 6);
        assert_eq!(code(ErrorClass::Invalid), 7);
        assert_eq!(Failure::Interrupted(String::new()).exit_code(), 130);
        let several = Failure::Several { first: Box::new(Problem::conflict("x", "y").into()), count: 2 };
        assert_eq!(several.exit_code(), 4);
    }

    #[test]
    fn a_report_names_fields_and_remedy_and_lets_no_escape_sequence_through() {
        let problem = Problem::invalid("invalid-vm", "the spec is \u{1b}[2Jnot valid")
            .field("spec.cpus", "0 is out of range")
            .remedy("use 1 to 256");
        assert_eq!(
            Failure::from(problem).report(),
            "error: the spec is [2Jnot valid\n  spec.cpus: 0 is out of range\n  remedy: use 1 to 256\n"
        );
    }
}
