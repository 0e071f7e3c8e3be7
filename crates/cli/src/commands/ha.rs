//! `gantry ha …`: what protects a VM, in the controller's words.

use gantry_api::rest::HaExplanation;

use super::Session;
use crate::{args::HaCommand, exit::Failure};

pub async fn run(session: &Session, command: HaCommand) -> Result<(), Failure> {
    let HaCommand::Explain { name } = command;
    let explanation = session.client()?.explain_ha(&name).await?;
    Ok(session.printer.value(&explanation, || text(&explanation))?)
}

fn text(explanation: &HaExplanation) -> String {
    let line = |about: &str, text: &str| format!("{about:<17} {text}\n");
    let lines: String = explanation.sentences.iter().map(|sentence| line(&sentence.about, &sentence.text)).collect();
    format!("vm/{}\n{lines}", explanation.vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_is_a_line_with_what_it_is_about() {
        let sentences = serde_json::json!([
            {"about": "now", "text": "running on host-1"},
            {"about": "if its host dies", "text": "it starts on host-2"},
        ]);
        let explanation = serde_json::json!({"vm": "web", "is_protected": true, "sentences": sentences});
        let explanation: HaExplanation = serde_json::from_value(explanation).expect("an explanation");
        let expected = "vm/web\nnow               running on host-1\nif its host dies  it starts on host-2\n";
        assert_eq!(text(&explanation), expected);
    }
}
