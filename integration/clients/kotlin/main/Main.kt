// A program that uses the client that openapi-generator generates from openapi.yaml. It creates,
// reads, searches, cancels and deletes, and prints what clients_test.go expects.

import java.util.concurrent.TimeUnit
import org.openapitools.client.apis.BatchesApi
import org.openapitools.client.apis.ControlApi
import org.openapitools.client.infrastructure.ApiClient
import org.openapitools.client.infrastructure.ClientError
import org.openapitools.client.infrastructure.ClientException
import org.openapitools.client.models.BatchStatus
import org.openapitools.client.models.Request
import org.openapitools.client.models.Status

const val STORE = "1003"
const val GROUP = "kotlin"

fun main(args: Array<String>) {
    ApiClient.accessToken = "t0ken"
    val http = ApiClient.builder.readTimeout(60, TimeUnit.SECONDS).build()
    val batches = BatchesApi(args[0], http)
    val control = ControlApi(args[0], http)

    val requests = listOf(
        Request(id = "p", method = Request.Method.POST, path = "products", body = mapOf("name" to "Mug")),
        Request(method = Request.Method.GET, path = "flaky"),
    )
    val ticket = batches.createBatch(STORE, requests, stopOnFirstFailure = false, groupId = GROUP).ticket!!.toString()

    var status: Status
    do {
        status = batches.getBatch(STORE, ticket = ticket, details = true, wait = 30)
    } while (status.status != BatchStatus.COMPLETED)
    status.responses!!.forEach { print("${it.status} ") }
    val found = batches.getBatch(STORE, status = BatchStatus.COMPLETED)
    if (found.items!!.any { it.ticket.toString() == ticket }) print("found ")
    print("canceled ${control.cancelGroup(STORE, groupId = GROUP).updateCount} ")
    print("deleted ${control.deleteBatch(STORE, ticket).deleteCount} ")
    try {
        batches.getBatch(STORE, ticket = ticket)
    } catch (e: ClientException) {
        val body = (e.response as ClientError<*>).body.toString()
        println(Regex("\"errorCode\":\"(\\w+)\"").find(body)?.groupValues?.get(1) ?: body)
    }
}
