"""The documents of a Windows guest, for Cloudbase-Init's NoCloud, built as data. Pure.

The script is the same for every guest: what differs comes to it as data, so that no name or
password can be read as a command.
"""

import base64
from typing import Final

import msgspec

from appliance.resources.guest import Card, Documents, Guest

HEADER: Final = "#ps1_sysnative"

_SCRIPT: Final = r"""
$ErrorActionPreference = 'Stop'
[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12

# One step that fails, for want of the Internet perhaps, keeps none of the others from being done.
function Step([string]$Name, [scriptblock]$Action) {
    try { & $Action } catch { Write-Output "kowabunga: $Name failed: $_" }
}

function Write-RootOnly([string]$Path, [string]$Content) {
    $folder = Split-Path $Path
    New-Item -ItemType Directory -Force -Path $folder | Out-Null
    icacls $folder /inheritance:r /grant:r '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' |
        Out-Null
    [IO.File]::WriteAllText($Path, $Content)
}

Step 'guest secret' {
    Write-RootOnly "$env:ProgramData\Kowabunga\guest-secret" $Guest.secret
}

Step 'routes' {
    foreach ($route in $Guest.routes) {
        $mac = $route.mac.Replace(':', '-').ToUpper()
        $card = Get-NetAdapter | Where-Object { $_.MacAddress -eq $mac }
        $there = Get-NetRoute -InterfaceIndex $card.ifIndex -DestinationPrefix $route.to `
            -ErrorAction SilentlyContinue
        if (-not $there) {
            New-NetRoute -InterfaceIndex $card.ifIndex -DestinationPrefix $route.to `
                -NextHop $route.via | Out-Null
        }
    }
}

Step 'metrics' {
    foreach ($card in $Guest.metrics) {
        $mac = $card.mac.Replace(':', '-').ToUpper()
        Get-NetAdapter | Where-Object { $_.MacAddress -eq $mac } |
            Set-NetIPInterface -AddressFamily IPv4 -InterfaceMetric $card.metric
    }
}

Step 'firewall' {
    foreach ($direction in 'Inbound', 'Outbound') {
        $name = "Kowabunga-ICMPv4-$direction"
        if (-not (Get-NetFirewallRule -Name $name -ErrorAction SilentlyContinue)) {
            New-NetFirewallRule -Name $name -DisplayName "ICMPv4 echo ($direction)" `
                -Direction $direction -Protocol ICMPv4 -IcmpType 8 -Action Allow | Out-Null
        }
    }
    if (-not (Get-NetFirewallRule -Name 'Kowabunga-SSH' -ErrorAction SilentlyContinue)) {
        New-NetFirewallRule -Name 'Kowabunga-SSH' -DisplayName 'OpenSSH server (TCP 22)' `
            -Direction Inbound -Protocol TCP -LocalPort 22 -Action Allow | Out-Null
    }
}

Step 'password policy' {
    $file = Join-Path $env:TEMP 'kowabunga-policy.inf'
    @('[Unicode]', 'Unicode=yes', '[System Access]', 'PasswordComplexity = 0',
        'MinimumPasswordLength = 5', 'MaximumPasswordAge = 3650', '[Version]',
        'signature="$CHICAGO$"', 'Revision=1') | Set-Content -Encoding Unicode $file
    secedit /configure /db (Join-Path $env:TEMP 'kowabunga-policy.sdb') /cfg $file `
        /areas SECURITYPOLICY | Out-Null
    Remove-Item $file
}

Step 'users' {
    # Without a password of the project: one that nobody knows, since a user has to have one.
    if ($Guest.password) { $text = $Guest.password }
    else {
        $bytes = New-Object byte[] 32
        [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($bytes)
        $text = [Convert]::ToBase64String($bytes) + 'aA1!'
    }
    $password = ConvertTo-SecureString -AsPlainText -Force $text
    $administrators = (Get-LocalGroup -SID 'S-1-5-32-544').Name
    foreach ($name in @('Admin', $Guest.user) | Select-Object -Unique) {
        if (Get-LocalUser -Name $name -ErrorAction SilentlyContinue) {
            Set-LocalUser -Name $name -Password $password -PasswordNeverExpires $true
        } else {
            New-LocalUser -Name $name -Password $password -PasswordNeverExpires | Out-Null
        }
        if (-not (Get-LocalGroupMember -Group $administrators -Member $name `
                -ErrorAction SilentlyContinue)) {
            Add-LocalGroupMember -Group $administrators -Member $name
        }
    }
}

Step 'OpenSSH' {
    if (-not (Get-Service sshd -ErrorAction SilentlyContinue)) {
        Get-WindowsCapability -Online -Name 'OpenSSH.Server*' | Add-WindowsCapability -Online |
            Out-Null
    }
    Set-Service sshd -StartupType Automatic
    New-Item -Force -Path 'HKLM:\SOFTWARE\OpenSSH' | Out-Null
    New-ItemProperty -Force -Path 'HKLM:\SOFTWARE\OpenSSH' -Name DefaultShell `
        -Value "$env:SystemRoot\System32\WindowsPowerShell\v1.0\powershell.exe" | Out-Null
    if ($Guest.public_key) {
        # The file that sshd reads for every administrator, wherever the profiles are.
        $file = "$env:ProgramData\ssh\administrators_authorized_keys"
        New-Item -ItemType Directory -Force -Path (Split-Path $file) | Out-Null
        $known = if (Test-Path $file) { @(Get-Content $file) } else { @() }
        if ($known -notcontains $Guest.public_key) {
            Add-Content -Encoding Ascii -Path $file -Value $Guest.public_key
        }
        icacls $file /inheritance:r /grant:r '*S-1-5-18:F' '*S-1-5-32-544:F' | Out-Null
    }
    Restart-Service sshd
}

Step 'NuGet, Paket and PsExec' {
    if ($Guest.tools) {
        Install-PackageProvider -Name NuGet -Force | Out-Null
        $bin = "$env:ProgramFiles\Kowabunga"
        New-Item -ItemType Directory -Force -Path $bin | Out-Null
        Invoke-WebRequest -UseBasicParsing -TimeoutSec 120 -OutFile "$bin\paket.exe" `
            -Uri 'https://github.com/fsprojects/Paket/releases/download/9.0.2/paket.exe'
        $archive = Join-Path $env:TEMP 'PSTools.zip'
        Invoke-WebRequest -UseBasicParsing -TimeoutSec 120 -OutFile $archive `
            -Uri 'https://download.sysinternals.com/files/PSTools.zip'
        Expand-Archive -Force -Path $archive -DestinationPath $bin
        Remove-Item $archive
        $path = [Environment]::GetEnvironmentVariable('Path', 'Machine')
        if ($path.Split(';') -notcontains $bin) {
            [Environment]::SetEnvironmentVariable('Path', "$path;$bin", 'Machine')
        }
    }
}

if ($Guest.fragment) {
    Step 'the script of the owner' { & ([scriptblock]::Create($Guest.fragment)) }
}

$wanted = $Guest.computer_name
if ($env:COMPUTERNAME -ne $wanted) {
    Step 'name' {
        Rename-Computer -NewName $wanted -Force
        if ($Guest.domain) {
            Set-ItemProperty 'HKLM:\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters' `
                -Name 'NV Domain' -Value $Guest.domain
        }
        exit 1001 # Cloudbase-Init restarts the machine, and does not run this again
    }
}
"""
_NETBIOS_CHARACTERS: Final = 15


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the script reads as `$Guest`."""

    computer_name: str
    domain: str
    user: str
    public_key: str | None
    password: str | None
    secret: str
    routes: list[dict[str, str]]
    metrics: list[dict[str, str | int]]
    tools: bool
    fragment: str | None


def windows_documents(guest: Guest, fragment: str | None) -> Documents:
    """Return what Cloudbase-Init finds, and what the owner adds; `guest.password` is in clear."""
    return Documents(
        user_data=_user_data(guest, fragment),
        meta_data=msgspec.yaml.encode(
            {
                "instance-id": guest.instance_id,
                "hostname": guest.host_name,
                "local-hostname": guest.host_name,
            }
        ).decode(),
        network_config=msgspec.yaml.encode(_network_config(guest)).decode(),
    )


def _user_data(guest: Guest, fragment: str | None) -> str:
    facts = _Facts(
        computer_name=guest.host_name.partition(".")[0].replace("_", "-")[:_NETBIOS_CHARACTERS],
        domain=guest.domain,
        user=guest.user,
        public_key=guest.public_key,
        password=None if guest.password is None else guest.password.reveal_text(),
        secret=guest.secret.reveal_text(),
        routes=[
            {"mac": card.mac, "to": route, "via": card.gateway}
            for card in _addressed(guest)
            for route in card.routes
        ],
        metrics=[{"mac": card.mac, "metric": card.metric} for card in _addressed(guest)],
        tools=bool(guest.packages),
        fragment=fragment,
    )
    # Letters, digits, "+", "/" and "=" only: nothing in it can end the quotes.
    encoded = base64.b64encode(msgspec.json.encode(facts)).decode()
    decoded = f"[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{encoded}'))"
    return f"{HEADER}\n$Guest = {decoded} | ConvertFrom-Json\n{_SCRIPT}"


def _network_config(guest: Guest) -> dict[str, object]:
    """Return version 1, which every Cloudbase-Init understands."""
    return {
        "version": 1,
        "config": [
            {
                "type": "physical",
                "name": f"interface{number}",
                "mac_address": card.mac,
                "subnets": [_subnet(card, guest)],
            }
            for number, card in enumerate(guest.cards)
            if card.addresses
        ],
    }


def _subnet(card: Card, guest: Guest) -> dict[str, object]:
    # One address: it has no place for more.
    subnet: dict[str, object] = {"type": "static", "address": card.addresses[0]}
    if card.next_hop is not None:
        subnet["gateway"] = card.next_hop
    subnet["dns_nameservers"] = [card.dns]
    if card.private and guest.search_domains:
        subnet["dns_search"] = guest.search_domains
    return subnet


def _addressed(guest: Guest) -> list[Card]:
    return [card for card in guest.cards if card.addresses]
