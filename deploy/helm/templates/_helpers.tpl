{{- define "lethe.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains "lethe" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-lethe" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- /* The labels by which pods are selected; they never change. */}}
{{- define "lethe.selector" -}}
app.kubernetes.io/name: lethe
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "lethe.podLabels" -}}
{{ include "lethe.selector" . }}
app.kubernetes.io/part-of: lethe
{{- end }}

{{- define "lethe.labels" -}}
{{ include "lethe.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "lethe.secret" -}}
{{ get .root.Values.secrets .component | default (printf "%s-%s" (include "lethe.fullname" .root) .component) }}
{{- end }}

{{- define "lethe.settings" -}}
{{- $ := . -}}
{{- if not .Values.settings.server_name -}}{{ fail "settings.server_name must be set: the part of user ids after the colon" }}{{- end -}}
{{- if not .Values.settings.homeserver.url -}}{{ fail "settings.homeserver.url must be set: Synapse's own address" }}{{- end -}}
lethe.yaml: |
  {{- toYaml .Values.settings | nindent 2 }}
{{- end }}

{{- /*
The metadata and the spec of a pod. Arguments:
  root       the chart's
  component  of Lethe, and the name of the container
  values     resources, and what else values.yaml has for the component
  command    the program
  args       its arguments, or nothing
  account    the end of the service account's name
  secret     the component whose Secret it has
  keys       which of secretKeys it has
  settings   the name of the ConfigMap with the settings
  ports      by name, or nothing
  once       whether the pod ends by itself
*/}}
{{- define "lethe.pod" -}}
{{- $keys := list -}}
{{- range $key := .keys -}}
{{- if get $.root.Values.secretKeys $key -}}{{- $keys = append $keys $key -}}{{- end -}}
{{- end -}}
metadata:
  labels:
    {{- include "lethe.podLabels" . | nindent 4 }}
    {{- with .root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/settings: {{ toYaml .root.Values.settings | sha256sum }}
    {{- with .root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "lethe.fullname" .root }}-{{ .account }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- if .once }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds | default 30 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  {{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with get $.values $name }}
  {{ $name }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: {{ .component }}
      {{- with .root.Values.image }}
      {{- if .digest }}
      image: {{ .repository }}@{{ .digest }}
      {{- else }}
      image: {{ .repository }}:{{ .tag | default $.root.Chart.AppVersion }}
      {{- end }}
      imagePullPolicy: {{ .pullPolicy }}
      {{- end }}
      command: [{{ .command }}]
      {{- with .args }}
      args: {{ toJson . }}
      {{- end }}
      env:
        {{- with .values.goMemoryLimit }}
        # Go collects garbage more often as the memory nears this.
        - name: GOMEMLIMIT
          value: {{ . }}
        {{- end }}
        - name: LETHE_CONFIG
          value: /etc/lethe/lethe.yaml
        {{- if eq .component "asynqmon" }}
        # The api tells who is an admin, so that asynqmon needs no database.
        - name: LETHE_AUTH
          value: homeserver
        - name: LETHE_HOMESERVER_URL
          value: http://{{ include "lethe.fullname" .root }}-api:8470
        {{- end }}
        {{- $variables := dict "databaseURL" "LETHE_DATABASE_URL_FILE" "redisURL" "LETHE_REDIS_URL_FILE" "asToken" "LETHE_HOMESERVER_AS_TOKEN_FILE" "synapseRedisURL" "LETHE_HOMESERVER_REDIS_URL_FILE" "signingKey" "LETHE_SIGNING_KEY_FILE" }}
        {{- range $keys }}
        - name: {{ get $variables . }}
          value: /run/secrets/lethe/{{ get $.root.Values.secretKeys . }}
        {{- end }}
        {{- with .values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .ports }}
      ports:
        {{- range $name, $port := . }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
      {{- end }}
      {{- if not .once }}
      {{- $probed := ternary "http" "metrics" (hasKey .ports "http") }}
      startupProbe:
        httpGet: {path: /healthz, port: {{ $probed }}}
        periodSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /healthz, port: {{ $probed }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: {{ $probed }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if hasKey .ports "http" }}
      # Waits until Kubernetes sends the pod no more requests.
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      {{- end }}
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: settings, mountPath: /etc/lethe, readOnly: true}
        - {name: secrets, mountPath: /run/secrets/lethe, readOnly: true}
  volumes:
    - name: settings
      configMap: {name: {{ .settings }}}
    - name: secrets
      secret:
        secretName: {{ include "lethe.secret" (dict "root" .root "component" .secret) }}
        defaultMode: 0440
        items:
          {{- range $keys }}
          {{- $key := get $.root.Values.secretKeys . }}
          - {key: {{ $key }}, path: {{ $key }}}
          {{- end }}
{{- end }}
