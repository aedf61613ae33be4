import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.BatchesApi;
import org.openapitools.client.api.ControlApi;
import org.openapitools.client.model.BatchStatus;
import org.openapitools.client.model.Request;
import org.openapitools.client.model.Status;

/**
 * A program that uses the clients that openapi-generator generates from openapi.yaml. It creates,
 * reads, searches, cancels and deletes, and prints what clients_test.go expects.
 */
public final class Main {
    private static final String STORE = "1003";
    private static final String GROUP = "java";

    public static void main(String[] args) throws Exception {
        ApiClient client = Connection.open(args[0]);
        BatchesApi batches = new BatchesApi(client);
        ControlApi control = new ControlApi(client);

        List<Request> requests = List.of(
            new Request().id("p").method(Request.MethodEnum.POST).path("products").body(Map.of("name", "Mug")),
            new Request().method(Request.MethodEnum.GET).path("flaky"));
        String ticket = batches.createBatch(STORE, requests, null, false, null, GROUP, null, null).getTicket().toString();

        Status status;
        do {
            status = read(batches, ticket, null);
        } while (status.getStatus() != BatchStatus.COMPLETED);
        status.getResponses().forEach(r -> System.out.print(r.getStatus() + " "));
        if (read(batches, null, BatchStatus.COMPLETED).getItems().stream().anyMatch(b -> b.getTicket().toString().equals(ticket))) {
            System.out.print("found ");
        }
        System.out.print("canceled " + control.cancelGroup(STORE, null, null, GROUP, null).getUpdateCount() + " ");
        System.out.print("deleted " + control.deleteBatch(ticket, STORE).getDeleteCount() + " ");
        try {
            read(batches, ticket, null);
        } catch (ApiException e) {
            var code = Pattern.compile("\"errorCode\":\"(\\w+)\"").matcher(e.getResponseBody());
            System.out.println(code.find() ? code.group(1) : e.toString());
        }
    }

    /** Waits for the end of a batch and reads it. Without a ticket, it searches. */
    private static Status read(BatchesApi batches, String ticket, BatchStatus status) throws ApiException {
        Boolean details = ticket == null ? null : true;
        Integer wait = ticket == null ? null : 30;
        return batches.getBatch(STORE, ticket, null, null, null, null, details, null, null, null, wait, status, null, null, null, null);
    }
}
