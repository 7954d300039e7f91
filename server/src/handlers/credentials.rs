//! SCRAM credentials, and delegation tokens, which a plain listener refuses.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::controller::scram::{SaltedPassword, ScramAlteration};
use engine::controller::{ControllerReply, ControllerRequest, Refusal as Refused};
use engine::protocol::messages::alter_user_scram_credentials::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, AlterUserScramCredentialsResult,
};
use engine::protocol::messages::create_delegation_token::{
    CreateDelegationTokenRequest, CreateDelegationTokenResponse,
};
use engine::protocol::messages::describe_delegation_token::{
    DescribeDelegationTokenRequest, DescribeDelegationTokenResponse,
};
use engine::protocol::messages::describe_user_scram_credentials::{
    CredentialInfo, DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
};
use engine::protocol::messages::expire_delegation_token::{
    ExpireDelegationTokenRequest, ExpireDelegationTokenResponse,
};
use engine::protocol::messages::renew_delegation_token::{RenewDelegationTokenRequest, RenewDelegationTokenResponse};
use engine::protocol::{ErrorCode, Str};

use super::outcome;
use crate::authorizer::{Operation, Resource, authorize, sentence};
use crate::broker::Broker;
use crate::dispatch::{Answer, Call, Refusal};

fn may(broker: &Broker, call: &Call, operation: Operation) -> Result<(), Refused> {
    authorize(broker, call, operation, Resource::Cluster).map_err(|error| Refused::new(error, sentence(error)))
}

/// Shows which mechanisms users have credentials for; never the credentials.
///
/// # Errors
/// If the request cannot be read.
pub fn describe_scram(broker: &Broker, call: &Call) -> Result<Answer, Refusal> {
    let request: DescribeUserScramCredentialsRequest<'_> = call.decode()?;
    let allowed = may(broker, call, Operation::Describe);
    if allowed.is_err() {
        let (error_code, error_message) = outcome(&allowed);
        return call.answer(&DescribeUserScramCredentialsResponse { error_code, error_message, ..Default::default() });
    }
    let image = broker.image();
    let asked = request.users.as_ref().filter(|users| !users.is_empty());
    // Each user, and whether it is named more than once.
    let mut names: BTreeMap<&str, bool> = BTreeMap::new();
    match asked {
        Some(users) => users.iter().for_each(|user| {
            names.entry(&user.name).and_modify(|twice| *twice = true).or_insert(false);
        }),
        None => names.extend(image.scram.keys().map(|name| (name.as_str(), false))),
    }
    let results = names.into_iter().map(|(user, twice)| {
        let refuse = |error: ErrorCode, why: String| DescribeUserScramCredentialsResult {
            user: Str::Borrowed(user),
            error_code: error.code(),
            error_message: Some(Str::Owned(why)),
            ..Default::default()
        };
        match image.scram.get(user) {
            _ if twice => refuse(
                ErrorCode::DuplicateResource,
                format!("Cannot describe SCRAM credentials for the same user twice in a single request: {user}"),
            ),
            None => refuse(
                ErrorCode::ResourceNotFound,
                format!("Attempt to describe a user credential that does not exist: {user}"),
            ),
            Some(credentials) => DescribeUserScramCredentialsResult {
                user: Str::Borrowed(user),
                error_message: None,
                credential_infos: credentials
                    .iter()
                    .map(|(mechanism, credential)| CredentialInfo {
                        mechanism: mechanism.code(),
                        iterations: credential.iterations,
                    })
                    .collect(),
                ..Default::default()
            },
        }
    });
    let results = results.collect();
    call.answer(&DescribeUserScramCredentialsResponse { error_message: None, results, ..Default::default() })
}

/// Sets and removes credentials.
///
/// # Errors
/// If the request cannot be read, or the node stops.
pub async fn alter_scram(broker: &Rc<Broker>, call: &Call) -> Result<Answer, Refusal> {
    let request: AlterUserScramCredentialsRequest<'_> = call.decode()?;
    let deletions = request.deletions.iter().map(|deletion| ScramAlteration {
        user: deletion.name.to_string(),
        mechanism: deletion.mechanism,
        secret: None,
    });
    let upsertions = request.upsertions.iter().map(|upsertion| ScramAlteration {
        user: upsertion.name.to_string(),
        mechanism: upsertion.mechanism,
        secret: Some(SaltedPassword {
            iterations: upsertion.iterations,
            salt: upsertion.salt.to_vec(),
            salted_password: upsertion.salted_password.to_vec(),
        }),
    });
    let asked = ControllerRequest::AlterUserScramCredentials(deletions.chain(upsertions).collect());
    let altered = match may(broker, call, Operation::Alter) {
        Err(refused) => asked.refused(&refused),
        Ok(()) => broker.core.controller(asked).await.ok_or(Refusal::Stopping)?,
    };
    let ControllerReply::AlterUserScramCredentials(altered) = altered else { return Err(Refusal::Stopping) };
    let results = altered.iter().map(|(user, result)| {
        let (error_code, error_message) = outcome(result);
        AlterUserScramCredentialsResult { user: Str::Borrowed(user), error_code, error_message }
    });
    call.answer(&AlterUserScramCredentialsResponse { results: results.collect(), ..Default::default() })
}

/// A token is for who has authenticated; on a plain listener nobody has.
const REFUSED: i16 = ErrorCode::DelegationTokenRequestNotAllowed as i16;

/// Refuses to make a token.
///
/// # Errors
/// If the request cannot be read.
pub fn create_token(call: &Call) -> Result<Answer, Refusal> {
    let _: CreateDelegationTokenRequest<'_> = call.decode()?;
    let principal = || Str::Borrowed(crate::authorizer::ANONYMOUS);
    call.answer(&CreateDelegationTokenResponse {
        error_code: REFUSED,
        principal_type: Str::Borrowed("User"),
        principal_name: principal(),
        token_requester_principal_type: Str::Borrowed("User"),
        token_requester_principal_name: principal(),
        issue_timestamp_ms: -1,
        expiry_timestamp_ms: -1,
        max_timestamp_ms: -1,
        ..Default::default()
    })
}

/// Refuses to renew a token.
///
/// # Errors
/// If the request cannot be read.
pub fn renew_token(call: &Call) -> Result<Answer, Refusal> {
    let _: RenewDelegationTokenRequest<'_> = call.decode()?;
    call.answer(&RenewDelegationTokenResponse { error_code: REFUSED, expiry_timestamp_ms: -1, ..Default::default() })
}

/// Refuses to expire a token.
///
/// # Errors
/// If the request cannot be read.
pub fn expire_token(call: &Call) -> Result<Answer, Refusal> {
    let _: ExpireDelegationTokenRequest<'_> = call.decode()?;
    call.answer(&ExpireDelegationTokenResponse { error_code: REFUSED, expiry_timestamp_ms: -1, ..Default::default() })
}

/// Refuses to show tokens.
///
/// # Errors
/// If the request cannot be read.
pub fn describe_tokens(call: &Call) -> Result<Answer, Refusal> {
    let _: DescribeDelegationTokenRequest<'_> = call.decode()?;
    call.answer(&DescribeDelegationTokenResponse { error_code: REFUSED, ..Default::default() })
}
