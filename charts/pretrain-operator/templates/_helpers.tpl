{{- /* Name of the release's objects. 46 characters leave room for the longest suffix within a DNS label. */ -}}
{{- define "pretrain-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pretrain-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "pretrain-operator.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pretrain-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Labels of a monitor or of rules: a dict of labels (of the values, which win nothing over ours) and root. */ -}}
{{- define "pretrain-operator.monitorLabels" -}}
{{- merge (include "pretrain-operator.labels" .root | fromYaml) .labels | toYaml -}}
{{- end -}}

{{- define "pretrain-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "pretrain-operator.fullname" .) -}}
{{- end -}}

{{- /* One image: a dict of image (repository, tag, digest) and root. */ -}}
{{- define "pretrain-operator.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The watched namespaces of scope "namespaced", as JSON: {"namespaces": [...]}. */ -}}
{{- define "pretrain-operator.watched" -}}
{{- dict "namespaces" (.Values.watch.namespaces | default (list .Release.Namespace)) | toJson -}}
{{- end -}}

{{- define "pretrain-operator.leaseName" -}}pretrain-operator{{- end -}}

{{- /* Namespace of the Lease: one in which the operator watches anyway. */ -}}
{{- define "pretrain-operator.leaseNamespace" -}}
{{- $watched := (include "pretrain-operator.watched" . | fromJson).namespaces -}}
{{- if or (eq .Values.scope "cluster") (has .Release.Namespace $watched) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first $watched -}}
{{- end -}}
{{- end -}}

{{- /* What values.schema.json cannot say in a sentence: rules over several values. */ -}}
{{- define "pretrain-operator.check" -}}
{{- $name := include "pretrain-operator.fullname" . -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- fail (printf "the release's objects would be named %q, and the name of a Service begins with a letter: set fullnameOverride, or name the release otherwise" $name) -}}
{{- end -}}
{{- if and (eq .Values.scope "cluster") .Values.watch.namespaces -}}
{{- fail (printf "watch.namespaces is %s, but scope is \"cluster\", which watches all namespaces: set scope=namespaced, or leave watch.namespaces empty" (toJson .Values.watch.namespaces)) -}}
{{- end -}}
{{- if eq (int .Values.metrics.port) (int .Values.health.port) -}}
{{- fail (printf "metrics.port and health.port are both %d: give each its own" (int .Values.health.port)) -}}
{{- end -}}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the service account that the operator shall use" -}}
{{- end -}}
{{- end -}}

{{- define "pretrain-operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "pretrain-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
