SwaggerUIBundle({
  url: "openapi.yaml",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: 1,
  validatorUrl: null, // nothing leaves this service
});
