//! A program that uses the client that openapi-generator generates from openapi.yaml. It creates,
//! reads, searches, cancels and deletes, and prints what clients_test.go expects.

use openapi::apis::batches_api::{create_batch, get_batch, GetBatchError};
use openapi::apis::configuration::Configuration;
use openapi::apis::control_api::{cancel_group, delete_batch};
use openapi::apis::Error;
use openapi::models::{request::Method, BatchStatus, Request, Status};

const STORE: &str = "1003";
const GROUP: &str = "rust";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut service = Configuration::new();
    service.base_path = std::env::args().nth(1).ok_or("usage: sheafclient URL")?;
    service.bearer_access_token = Some("t0ken".into());

    let mut mug = Request::new(Method::Post, "products".into());
    mug.id = Some(Some("p".into()));
    mug.body = Some(Some(serde_json::json!({"name": "Mug"})));
    let requests = vec![mug, Request::new(Method::Get, "flaky".into())];
    let created = create_batch(&service, STORE, requests, None, Some(false), None, Some(GROUP), None, None).await?;
    let ticket = created.ticket.ok_or("no ticket")?.to_string();

    let mut status = read(&service, Some(&ticket), None).await?;
    while status.status != Some(BatchStatus::Completed) {
        status = read(&service, Some(&ticket), None).await?;
    }
    for response in status.responses.ok_or("no responses")? {
        print!("{} ", serde_json::to_value(response.status)?.as_str().ok_or("no status")?);
    }
    let found = read(&service, None, Some(BatchStatus::Completed)).await?;
    if found.items.ok_or("no items")?.iter().any(|b| b.ticket.to_string() == ticket) {
        print!("found ");
    }
    let canceled = cancel_group(&service, STORE, None, None, Some(GROUP), None).await?;
    let deleted = delete_batch(&service, &ticket, STORE).await?;
    print!("canceled {} deleted {} ", canceled.update_count, deleted.delete_count);
    match read(&service, Some(&ticket), None).await {
        Err(Error::ResponseError(refused)) => match refused.entity {
            Some(GetBatchError::Status404(e)) | Some(GetBatchError::Status400(e)) => {
                println!("{}", serde_json::to_value(e.error_code)?.as_str().ok_or("no code")?)
            }
            other => println!("{other:?}"),
        },
        other => println!("{other:?}"),
    }
    Ok(())
}

/// Waits for the end of a batch and reads it. Without a ticket, it searches.
async fn read(service: &Configuration, ticket: Option<&str>, status: Option<BatchStatus>) -> Result<Status, Error<GetBatchError>> {
    let (details, wait) = (ticket.map(|_| true), ticket.map(|_| 30));
    get_batch(service, STORE, ticket, None, None, None, None, details, None, None, None, wait, status, None, None, None, None).await
}
