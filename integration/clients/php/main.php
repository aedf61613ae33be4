<?php

// A program that uses the client that openapi-generator generates from openapi.yaml. It creates,
// reads, searches, cancels and deletes, and prints what clients_test.go expects.

declare(strict_types=1);

require 'GuzzleHttp/autoload.php';

use OpenAPI\Client\Api\BatchesApi;
use OpenAPI\Client\Api\ControlApi;
use OpenAPI\Client\ApiException;
use OpenAPI\Client\Configuration;
use OpenAPI\Client\Model\Request;

error_reporting(E_ALL);
spl_autoload_register(function (string $class): void {
    $file = __DIR__ . '/client/lib/' . str_replace('\\', '/', substr($class, strlen('OpenAPI\\Client\\'))) . '.php';
    if (str_starts_with($class, 'OpenAPI\\Client\\') && is_file($file)) {
        require_once $file;
    }
});
// Load the whole client, not only the parts that are used here.
foreach (glob(__DIR__ . '/client/lib/{,*/}*.php', GLOB_BRACE) as $file) {
    require_once $file;
}

$store = '1003';
$group = 'php';
$configuration = (new Configuration())->setHost($argv[1])->setAccessToken('t0ken');
$batches = new BatchesApi(null, $configuration);
$control = new ControlApi(null, $configuration);

$ticket = $batches->createBatch($store, [
    new Request(['id' => 'p', 'method' => 'POST', 'path' => 'products', 'body' => ['name' => 'Mug']]),
    new Request(['method' => 'GET', 'path' => 'flaky']),
], stop_on_first_failure: false, group_id: $group)->getTicket();

do {
    $status = $batches->getBatch($store, ticket: $ticket, details: true, wait: 30);
} while ($status->getStatus() !== 'COMPLETED');
foreach ($status->getResponses() as $response) {
    echo $response->getStatus(), ' ';
}
foreach ($batches->getBatch($store, status: 'COMPLETED')->getItems() as $batch) {
    if ($batch->getTicket() === $ticket) {
        echo 'found ';
    }
}
$canceled = $control->cancelGroup($store, group_id: $group)->getUpdateCount();
$deleted = $control->deleteBatch($ticket, $store)->getDeleteCount();
try {
    $batches->getBatch($store, ticket: $ticket);
} catch (ApiException $e) {
    echo "canceled $canceled deleted $deleted ", $e->getResponseObject()->getErrorCode(), "\n";
}
